"""What may be said of any run from Python: its pipeline, inputs, limits, tags, and where replies may come from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypedDict

from fusion.core.budget import BudgetGiven
from fusion.core.errors import UsageError, close_names
from fusion.core.events import EventBase
from fusion.core.params import CacheMode
from fusion.pipeline.loader import PipelineGiven

Prompt = str | Sequence[Mapping[str, Any]] | None
"""A text, or messages as OpenAI has them."""
DEFAULT_PIPELINE: Final = "plan-execute-review"


class RunOptions(TypedDict, total=False):
    """What may be said of any run.

    `pipeline` is a name, a path or an object; `inputs` are given by name. `budget` goes before the pipeline's own.
    `on_event` is called with every event, on the private loop's thread. `tags` are kept with the run. `cache` goes
    before what the pipeline says; where it may answer, `sample` tells repeats of a run apart that are to have
    answers of their own.
    """

    pipeline: PipelineGiven
    inputs: Mapping[str, Any] | None
    budget: BudgetGiven
    on_event: Callable[[EventBase], None] | None
    tags: Mapping[str, str] | None
    cache: CacheMode | None
    sample: int


def check_options(given: RunOptions) -> None:
    """Raise TypeError, as Python does for its own, where there is no such option."""
    for name in given.keys() - RunOptions.__annotations__.keys():
        raise TypeError(f"unexpected keyword argument {name!r}{close_names(name, RunOptions.__annotations__)}")


def tags_of(given: Mapping[str, str] | None) -> dict[str, str]:
    """Tags, each a text by a name. Raises UsageError."""
    tags = dict(given or {})
    for name, value in tags.items():
        if not (isinstance(name, str) and isinstance(value, str) and name and "=" not in name):
            raise UsageError(f"tag {name!r}: {value!r}: give a text by a name without =: {{'team': 'search'}}")
    return tags
