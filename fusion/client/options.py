"""Options: the keyword arguments of a run from Python."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypedDict

from fusion.core.budget import Budget, BudgetGiven
from fusion.core.errors import UsageError, close_names
from fusion.core.events import EventBase
from fusion.core.params import AnswerOptions, CacheMode
from fusion.core.types import Gate
from fusion.pipeline.loader import PipelineGiven

Prompt = str | Sequence[Mapping[str, Any]] | None
"""A text, or OpenAI-style messages."""
DEFAULT_PIPELINE: Final = "plan-execute-review"
OnGate = Callable[[Gate], Any]
"""Asks the person who is there: returns True or False, an edited text, data of the schema, or None for later."""


class RunOptions(TypedDict, total=False):
    """Options of a run.

    `pipeline` is a name, a path or an object; `inputs` are values by name. `budget` overrides the pipeline's own.
    `on_event` is called with every event, on the thread of the private loop. `tags` are kept with the run. `cache`
    overrides the pipeline's cache modes; a different `sample` makes a cache answer a repeat anew. With `batch`, calls
    go to the batch APIs of their providers where those have one, at a lower price and within a day. `answer` are
    options of the stage that writes the answer: sampling, a limit, a schema, and tools of yours; see AnswerOptions.

    `within` is a Budget that several runs of one Fusion share: a cap over many requests, beside that of each run. A
    name is that of a `[budgets.NAME]` in the settings. A run that it stops ends as one that its own budget stops:
    RunFailed with exit code 4, or a partial answer with `on_budget: finish`.

    `on_gate` is called with each gate that opens, on a thread of its own, while other stages go on. It returns True,
    False for a no, an edited text, or data of the schema. With None the gate stays open, and the run waits.

    >>> cap = Budget(Limits(usd=20))
    >>> answers = [fusion.complete(question, within=cap) for question in questions]
    """

    pipeline: PipelineGiven
    inputs: Mapping[str, Any] | None
    budget: BudgetGiven
    on_event: Callable[[EventBase], None] | None
    tags: Mapping[str, str] | None
    cache: CacheMode | None
    sample: int
    batch: bool
    within: Budget | str | None
    answer: AnswerOptions | Mapping[str, Any] | None
    on_gate: OnGate | None


class ResumeOptions(TypedDict, total=False):
    """Options of a resumed run: an edited pipeline, new limits, a function for its events, and a shared budget.

    `on_gate` asks at gates, as for a new run.
    """

    pipeline: PipelineGiven | None
    budget: BudgetGiven
    on_event: Callable[[EventBase], None] | None
    within: Budget | str | None
    on_gate: OnGate | None


class ContinueOptions(ResumeOptions, total=False):
    """Options of a run that goes on with the results of tools.

    Beside those of a resumed run, `answer` replaces the options that it sets; its `turns` follow the results. `tags`
    replace those of the run before.
    """

    answer: AnswerOptions | Mapping[str, Any] | None
    tags: Mapping[str, str] | None


def answer_of(given: AnswerOptions | Mapping[str, Any] | None) -> AnswerOptions | None:
    """Return the options of an answer; None if none of them is set. Raises PipelineError with every mistake."""
    options = AnswerOptions(**given) if isinstance(given, Mapping) else given
    if options is not None and not isinstance(options, AnswerOptions):
        raise UsageError(f"`answer` is {given!r:.80}; give AnswerOptions, or a mapping of them")
    return options if options is not None and options.given else None


def check_options(given: Mapping[str, Any], known: type) -> None:
    """Raise TypeError for an option that the TypedDict `known` lacks, as Python does."""
    for name in given.keys() - known.__annotations__.keys():
        raise TypeError(f"unexpected keyword argument {name!r}{close_names(name, known.__annotations__)}")


def tags_of(given: Mapping[str, str] | None) -> dict[str, str]:
    """Return tags as a dictionary of texts. Raises UsageError."""
    tags = dict(given or {})
    for name, value in tags.items():
        if not (isinstance(name, str) and isinstance(value, str) and name and "=" not in name):
            raise UsageError(f"tag {name!r}: {value!r}: give a text by a name without =: {{'team': 'search'}}")
    return tags
