"""Custom scorers: an expression over `answer`, `data` and `gold`, or a Python function."""

from collections.abc import Mapping
from typing import Any

from fusion.bench.arms.external import call, load_function
from fusion.bench.scorers.base import Answer, Score, Scorer
from fusion.core.errors import PromptError, UsageError
from fusion.prompts.library import Library
from fusion.prompts.template import Prompts


class ByExpression(Scorer):
    """An expression in the syntax of pipelines, such as `gold|lower in answer|lower`: true scores 1, false 0."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._expression = Prompts(Library([])).expression(source)
        unknown = {path[0] for path in self._expression.paths} - {"answer", "data", "gold"}
        if unknown:
            raise UsageError(f"the scorer {source!r} reads {sorted(unknown)}; it can read: answer, data, gold")

    def score(self, answer: Answer, gold: Any) -> Score:
        try:
            value = self._expression.evaluate({"answer": answer.text, "data": answer.data, "gold": gold})
        except PromptError as error:
            if answer.data is None and any(path[0] == "data" for path in self._expression.paths):
                return Score(value=0)  # the arm returned no data
            raise UsageError(f"the scorer {error}") from error
        return _as_score(value, f"the scorer {self._source!r}")


class ByFunction(Scorer):
    """`module:function`, called with the answer's text and the gold answer.

    Returns true, false or a number from 0 to 1. An exception ends the benchmark: it is the scorer's mistake, not the
    model's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._function, _ = load_function("scorer", name)

    def score(self, answer: Answer, gold: Any) -> Score:
        value = call(f"the scorer {self._name!r} failed", lambda: self._function(answer.text, gold))
        return _as_score(value, f"the scorer {self._name!r}")


def _as_score(value: Any, what: str) -> Score:
    if isinstance(value, Score):
        return value
    if isinstance(value, Mapping) and "value" in value:
        measures = {str(name): float(part) for name, part in value.items() if name != "value"}
        return _as_score(value["value"], what).model_copy(update={"measures": measures})
    if isinstance(value, (bool, int, float)) and 0 <= value <= 1:
        return Score(value=float(value))
    raise UsageError(f"{what} gave {value!r}; a score is true, false or a number from 0 to 1")
