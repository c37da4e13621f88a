"""Sources that a text cites in square brackets, compared with those that there are."""

import re
from collections.abc import Iterator
from typing import Any, Final

from fusion.core.types import as_text

_CITED: Final = re.compile(r"\[([^\[\]]+)\](?!\()")
"""A text in square brackets that is no link."""
_LONGEST: Final = 80


def unknown_sources(text: str, sources: Any) -> list[str]:
    """Return a sentence for each citation of a text that is none of the sources.

    A citation is the name of a source, or its part before a colon; several in one pair of brackets have `;` between.

    >>> unknown_sources("It is so [b 2]. [sic; b 3]", ["b 2: Fees"])
    ["there is no source 'sic'", "there is no source 'b 3'"]
    """
    known = _known(sources)
    strange = dict.fromkeys(one for one in _cited(text, known) if one not in known)
    return [f"there is no source {one[:_LONGEST]!r}" for one in strange]


def _cited(text: str, known: set[str]) -> Iterator[str]:
    for found in _CITED.finditer(text):
        whole = _plain(found[1])
        yield from [whole] if whole in known else filter(None, map(_plain, whole.split(";")))


def _known(sources: Any) -> set[str]:
    """Return the names of sources, whole and up to their colon. A text has one on each line."""
    if isinstance(sources, str):
        sources = sources.splitlines()
    names = {_plain(as_text(one)) for one in (sources if isinstance(sources, (list, tuple)) else ())}
    return names | {name.partition(":")[0] for name in names if ":" in name}


def _plain(name: str) -> str:
    return " ".join(name.split())
