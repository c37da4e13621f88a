"""All scorers by what a suite or a command line calls them."""

import re
from collections.abc import Callable

from fusion.bench.scorers.base import Scorer
from fusion.bench.scorers.custom import ByExpression, ByFunction
from fusion.bench.scorers.exact import Closed, Formula
from fusion.bench.scorers.ifeval import Instructions
from fusion.bench.scorers.records import Records
from fusion.bench.scorers.squad import Reading
from fusion.core.errors import UsageError, close_names
from fusion.stages.text.extract import Extractor

_CLOSED: dict[str, Callable[[str | None, str | None], Scorer]] = {
    "exact": lambda path, pattern: Closed(Extractor(path=path, pattern=pattern)),
    "number": lambda path, pattern: Closed(Extractor(read="number", path=path, pattern=pattern)),
    "code": lambda path, pattern: Closed(Extractor(read="code", path=path, pattern=pattern)),
    "math": Formula,
}
_WHOLE: dict[str, Callable[[], Scorer]] = {
    "exact_match": lambda: Reading("exact_match"),
    "f1": lambda: Reading("f1"),
    "contains": lambda: Reading("contains"),
    "ifeval": Instructions,
    "records": lambda: Records("records"),
    "total": lambda: Records("total"),
}
NAMES = tuple(sorted({**_CLOSED, **_WHOLE}))
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def scorer(given: str, *, path: str | None = None, pattern: str | None = None) -> Scorer:
    """The scorer that `given` names, or that it is. Raises UsageError with the names that there are.

    `path` and `pattern` say where in the answer `exact`, `number`, `code` and `math` look: a path into its JSON, and
    a regular expression.
    """
    if given in _CLOSED:
        return _CLOSED[given](path, pattern)
    if path is not None or pattern is not None:
        raise UsageError(f"`path` and `pattern` have an effect with {', '.join(sorted(_CLOSED))} only, not {given!r}")
    if given in _WHOLE:
        return _WHOLE[given]()
    if _FUNCTION.fullmatch(given):
        return ByFunction(given)
    if re.fullmatch(r"[\w-]+", given):
        raise UsageError(f"no scorer {given!r}{close_names(given, NAMES)}")
    return ByExpression(given)
