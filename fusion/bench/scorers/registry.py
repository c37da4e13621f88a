"""Registry: all scorers by name."""

import re
from collections.abc import Callable

from fusion.bench.scorers.base import Scorer
from fusion.bench.scorers.custom import ByExpression, ByFunction
from fusion.bench.scorers.exact import Closed, Formula
from fusion.bench.scorers.ifeval import Instructions
from fusion.bench.scorers.records import Records
from fusion.bench.scorers.squad import ReadingComprehension
from fusion.bench.scorers.unit_tests import UnitTests
from fusion.core.config import SandboxTable
from fusion.core.errors import UsageError, close_names
from fusion.stages.text.extract import Extractor

_CLOSED: dict[str, Callable[..., Scorer]] = {
    "exact": lambda **options: Closed(Extractor(**options)),
    "number": lambda **options: Closed(Extractor(read="number", **options)),
    "code": lambda **options: Closed(Extractor(read="code", **options)),
    "math": Formula,
}
NUMBER = "number"
_WHOLE: dict[str, Callable[[], Scorer]] = {
    "exact_match": lambda: ReadingComprehension("exact_match"),
    "f1": lambda: ReadingComprehension("f1"),
    "contains": lambda: ReadingComprehension("contains"),
    "ifeval": Instructions,
    "records": lambda: Records("records"),
    "total": lambda: Records("total"),
}
_TESTS = "unit_tests"
NAMES = tuple(sorted({**_CLOSED, **_WHOLE, _TESTS: None}))
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def scorer(
    given: str,
    *,
    path: str | None = None,
    pattern: str | None = None,
    tolerance: str | float | None = None,
    sandbox: SandboxTable | None = None,
) -> Scorer:
    """Return the scorer of a name, an expression or `module:function`. Raises UsageError for an unknown name.

    `path` (into JSON) and `pattern` (a regular expression) locate the answer for `exact`, `number`, `code`, `math`.
    `tolerance`, for `number`, is the difference at which an answer is still right: a share of the gold or an amount.
    `sandbox` holds the settings of the sandbox for `unit_tests`.
    """
    if tolerance is not None and given != NUMBER:
        raise UsageError(f"`tolerance` has an effect with {NUMBER} only, not {given!r}")
    if given in _CLOSED:
        options = {"path": path, "pattern": pattern, **({} if tolerance is None else {"tolerance": tolerance})}
        return _CLOSED[given](**options)
    if path is not None or pattern is not None:
        raise UsageError(f"`path` and `pattern` have an effect with {', '.join(sorted(_CLOSED))} only, not {given!r}")
    if given == _TESTS:
        return UnitTests(sandbox or SandboxTable())
    if given in _WHOLE:
        return _WHOLE[given]()
    if _FUNCTION.fullmatch(given):
        return ByFunction(given)
    if re.fullmatch(r"[\w-]+", given):
        raise UsageError(f"no scorer {given!r}{close_names(given, NAMES)}")
    return ByExpression(given)
