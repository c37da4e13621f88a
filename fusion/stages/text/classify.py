"""Classification of a text by its words: its language, the capabilities it calls for, its nearest example."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

Capability = Literal["code", "math", "json"]

_SCRIPTS: Final = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CJK": "zh",
    "CYRILLIC": "ru",
    "GREEK": "el",
    "ARABIC": "ar",
    "HEBREW": "he",
    "DEVANAGARI": "hi",
    "THAI": "th",
}
"""The default language of each script."""

_WORDS: Final = {
    "en": "the and is are was of to in that it for with what how which does this from you your not have be an",
    "de": "der die das und ist sind nicht ein eine zu mit von für auf wie was welche dem den im ich sie es wird",
    "fr": "le la les des et est sont une un pour dans que qui quel quelle avec sur pas ce cette du vous au comment",
    "es": "el la los las y es son una un para en que con por cuál cómo del no se su como está más cuántos qué",
    "it": "il lo la gli le e è sono una un per in che con non di del della come quale quanti si questo nel più",
    "pt": "o a os as e é são uma um para em que com não de do da como qual quantos se este no na mais você",
    "nl": "de het een en is zijn van te dat niet op met voor hoe wat welke deze in aan er ook bij naar",
    "sv": "och är en ett att det som på för med av inte till hur vad vilka den de i från har jag kan",
    "pl": "i w na jest są nie się z do to że jak co który która dla od przez oraz ile czy po",
}
_KNOWN: Final = {code: frozenset(words.split()) for code, words in _WORDS.items()}
_LONGEST: Final = 5_000
_SIGNS: Final[dict[Capability, re.Pattern[str]]] = {
    "code": re.compile(
        r"```|\[PYTHON\]|^[ \t]*+(?:def|class|import|from|function|public|SELECT|#include)\b|\b\w++\(\w*+\)\s*+[{;]"
        r"|\b(?:python|javascript|typescript|java|rust|sql|regex|stack trace|traceback|refactor)\b",
        re.MULTILINE | re.IGNORECASE,
    ),
    "math": re.compile(
        r"\\(?:frac|sqrt|sum|int|begin|text|le|ge|cdot|pi)\b|\$[^$\n\\^_=]*+[\\^_=][^$\n]*+\$|\\[\[(]"
        r"|\b(?:prove|theorem|integral|derivative|equation|polynomial|probability|modulo)\b",
        re.IGNORECASE,
    ),
    "json": re.compile(r"\bjson\b|\{\s*+\"\w++\"\s*+:", re.IGNORECASE),
}


def capabilities(text: str) -> set[Capability]:
    """Return the capabilities that a text calls for, by its words and signs."""
    return {name for name, sign in _SIGNS.items() if sign.search(text)}


def language(text: str) -> str | None:
    """Return the language of a text as an ISO 639-1 code, by its script and common words; None if unclear.

    >>> language("Wie viele Eier legt die Ente in der Woche?")
    'de'
    """
    text = text[:_LONGEST]
    script = _script(text)
    if script != "LATIN":
        return _SCRIPTS.get(script)
    words = re.findall(r"[^\W\d_]+", text.casefold())
    seen = Counter({code: sum(word in known for word in words) for code, known in _KNOWN.items()})
    (first, most), (_, next_most) = seen.most_common(2)
    return first if most > next_most else None


def _script(text: str) -> str:
    """Return the script of most letters; kana among Chinese characters count as Japanese."""
    scripts = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    if scripts["HIRAGANA"] + scripts["KATAKANA"] > scripts["CJK"] / 10 > 0:
        return "HIRAGANA"
    return max(scripts, key=lambda name: scripts[name], default="LATIN")


class Near(NamedTuple):
    """The nearest text: its index, and its similarity, 1 for the same words."""

    at: int
    similarity: float


def nearest(text: str, texts: Sequence[str]) -> Near:
    """Return the text most similar to `text`; rare words count more; of equal ones the first.

    The similarity is the cosine of logarithmic word counts, weighted by inverse document frequency
    (Salton and Buckley, "Term-weighting approaches in automatic text retrieval", 1988).
    """
    counts = [_words(one) for one in texts]
    spread = Counter(word for one in counts for word in one)
    weight = {word: math.log(1 + len(texts) / times) for word, times in spread.items()}
    unseen = math.log(1 + len(texts))
    wanted = _weighed(_words(text), weight, unseen)
    near = [_cosine(wanted, _weighed(one, weight, unseen)) for one in counts]
    best = max(range(len(near)), key=lambda at: (near[at], -at))
    return Near(best, near[best])


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.casefold()))


def _weighed(words: Counter[str], weight: Mapping[str, float], unseen: float) -> dict[str, float]:
    return {word: (1 + math.log(times)) * weight.get(word, unseen) for word, times in words.items()}


def _cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    shared = math.fsum(value * other[word] for word, value in one.items() if word in other)
    return shared / (_length(one) * _length(other)) if shared else 0.0


def _length(of: Mapping[str, float]) -> float:
    return math.sqrt(math.fsum(value * value for value in of.values()))
