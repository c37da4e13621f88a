"""The scripted models of the runs that are kept in the stores here, and of what is left to do in those runs."""

import json
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from fusion import ModelInfo, Price, Request, Say, ScriptedModel, Usage
from fusion.core.errors import ContentFilterError, ModelConnectionError

Instead = Callable[[Request], Awaitable[str | None]]
"""Called before each answer, and may give another; may raise, wait or end the process."""

CHEAP = Price(input=Decimal("0.0000001"), output=Decimal("0.0000004"))
DEAR = Price(input=Decimal("0.00001"), output=Decimal("0.00004"), cached_read=Decimal("0.000001"))
PRICES = {"lead": DEAR, "worker": CHEAP, "second": CHEAP, "down": DEAR, "eyes": DEAR, "unpriced": None}

ACCEPT = {"issues": [], "verdict": "accept"}
REVISE = {"issues": [{"quote": "rough", "problem": "it is not smooth"}], "verdict": "revise"}
REJECT = {"issues": [{"quote": "Rotten", "problem": "no such place"}], "verdict": "reject"}
COMPARED = {
    "consensus": ["the level rises"],
    "contradictions": [],
    "partial_coverage": [],
    "unique_insights": [],
    "blind_spots": ["the wind"],
    "evidence": [],
    "confidence": 0.5,
    "vote_settles": False,
}
PART = {"needs": [], "difficulty": 1, "capabilities": [], "expected_output": "a line", "criteria": []}
PLAN = {
    "goal": "the goal",
    "constraints": ["short"],
    "merge_instructions": "join",
    "subtasks": [{"title": f"part {n}", "instructions": f"do part {n}", **PART} for n in (1, 2, 3)],
}


def answered(request: Request) -> Any:
    """What each of the models says to this request."""
    words = "\n".join(message.content for message in request.messages)
    return next(said(request, words) for mark, said in _ANSWERS.items() if re.search(mark, words))


def _verdict(request: Request, words: str) -> Any:
    return REJECT if "Rotten" in words else REVISE if "rough 2" in words else ACCEPT


def _draft(request: Request, words: str) -> Any:
    if "Its last words are" in words:
        return "and at noon it was read again."
    return (
        Say("The gauge was read at midnight, and at noon", finish_reason="length")
        if "midnight" in words
        else "drafted"
    )


def _count(request: Request, words: str) -> str:
    return f"It is {12 if request.sample != 1 else 13}."


def _read(request: Request, words: str) -> Any:
    if "Sunken" in words:
        return ContentFilterError("no such gauge", model="scripted/worker")
    return re.sub(r"READ (\w+) at ([\d.]+)", r"The level of \1 is \2.", words)


def _fields(request: Request, words: str) -> Any:
    if "none" in words:
        return "There is no level."
    place, level = re.findall(r"FIELDS of (\w+) ([\d.]+)", words)[0]
    return {"place": place, "level": float(level)}


def _facts(request: Request, words: str) -> Any:
    return {"city": "Bergen", "level": 0.95} if len(request.messages) > 1 else "The city is Bergen."


def _merged(request: Request, words: str) -> str:
    found = re.findall(r"(?:result|smooth|noted|group) \d", words)
    return f"merged of {', '.join(dict.fromkeys(found))}"


def _part(request: Request, words: str) -> str:
    number = re.findall(r"do part (\d)", words)[0]
    return f"smooth {number}" if "was not accepted" in words else f"{'rough' if number == '2' else 'result'} {number}"


def _after(mark: str, answer: str) -> Callable[[Request, str], str]:
    """Says `answer` of what follows the mark in the request."""

    def said(request: Request, words: str) -> str:
        return answer.format(re.findall(f"{mark} (.*)", words)[0])

    return said


def _always(answer: Any) -> Callable[[Request, str], Any]:
    return lambda request, words: answer


_ANSWERS: dict[str, Callable[[Request, str], Any]] = {
    "You are the planner": _always(PLAN),
    "You are the reviewer": _verdict,
    "You are the judge": _always(COMPARED),
    "You write the final answer": _always("written out of three"),
    "You sort requests": _always({"route": "hard"}),
    "READ ": _read,
    "FIELDS ": _fields,
    "FACTS ": _facts,
    "DRAFT ": _draft,
    "COUNT ": _count,
    "INNER ": _always("inner"),
    "BETTER ": _after("BETTER than", "better than {}"),
    "FINAL in capitals": _after("FINAL in capitals of", "FINAL OF {}"),
    "FINAL ": _after("FINAL of", "final of {}"),
    "LOOK ": _always("a grey square"),
    "WORD ": _after("WORD", "<{}>"),
    "NOTE ": _after("NOTE", "noted {:.1}" + " in many words" * 40),
    "do part": _part,
    "": _merged,
}


def models(instead: Instead | None = None) -> dict[str, ScriptedModel]:
    """The models by their ids; each call of one that is billed has 100 tokens in and 10 out."""
    return {f"scripted/{name}": _model(name, instead) for name in PRICES}


def _model(name: str, instead: Instead | None) -> ScriptedModel:
    async def script(request: Request) -> Any:
        other = None if instead is None else await instead(request)
        if name == "down":
            return ModelConnectionError("it is not there", model="scripted/down")
        said = answered(request) if other is None else other
        if isinstance(said, Exception):
            return said
        say = said if isinstance(said, Say) else Say(said if isinstance(said, str) else json.dumps(said))
        cached = 40 if name == "lead" and "judge" in request.messages[-1].content else 0
        usage = Usage(input=100, output=10, cached_read=cached)
        return Say(say.text, finish_reason=say.finish_reason, usage=usage)

    info = ModelInfo(
        id=f"scripted/{name}",
        provider="scripted",
        price=PRICES[name],
        price_source="scripted" if PRICES[name] else "unknown",
        json_schema=True,
        takes=frozenset({"image"}) if name == "eyes" else None,
    )
    return ScriptedModel(script, info=info)
