"""Context of a stage: its only door to inputs, outputs, models, journal and events."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from fusion.core.errors import FusionError
from fusion.core.types import CallKey, Deltas, FinishReason, Item, JsonSchema, Message
from fusion.models.base import ModelInfo
from fusion.models.speed import Latencies
from fusion.stages.feed import Feed

Variables = Mapping[str, Any]


class Ask(NamedTuple):
    """What a stage asks of a model: by role, or by `model` where a certain one is meant.

    `step` names the call inside of the stage (`work`, `verdict`, `revise-1`) for the content key. With `parse`
    the answer is read as `schema` says; without, the shape is asked for and the text comes back as it is. `sample`
    numbers those of several calls that ask the same and are to have answers of their own.
    """

    role: str
    messages: Sequence[Message]
    step: str
    item: int | None = None
    model: str | None = None
    schema: JsonSchema | None = None
    parse: bool = True
    max_tokens: int | None = None
    temperature: float | None = None
    deltas: Deltas | None = None
    sample: int = 0


class Answer(NamedTuple):
    """What a model answered to an Ask: `data` where a schema was given. `by` is the model that was asked.

    `calls` are those that it took.
    """

    text: str
    data: Any
    by: str
    finish_reason: FinishReason
    calls: tuple[CallKey, ...] = ()

    @property
    def value(self) -> Any:
        """The data where a schema was given, else the text."""
        return self.text if self.data is None else self.data


class Outcome(NamedTuple):
    """What a stage or a pipeline within a stage gave."""

    text: str
    data: Any = None
    confidence: float | None = None


class Room(NamedTuple):
    """Tokens that a call may read, None where nobody knows the model's context, and those that it may write."""

    input: int | None
    output: int


class StageContext(ABC):
    """A stage's only way to the world: its inputs, its output fields, calls, prompts and notes."""

    finishing: bool
    """True where a budget that runs out ends the work but not the run (`on_budget: finish`)."""
    seed: str
    """What an order that is to look random is made of: the same for this stage whenever this run is run."""
    latencies: Latencies
    """How long models took lately."""

    @abstractmethod
    def model(self, role: str) -> ModelInfo:
        """The model that a role asks first."""

    @abstractmethod
    async def variables(self) -> dict[str, Any]:
        """What the stage's templates and expressions may read, once all of it that does not flow has come."""

    @abstractmethod
    def follow(self, source: str) -> AsyncIterator[Item]:
        """The items of an expression: as they come for a bare path, else once it has its value."""

    @abstractmethod
    def schema(self, key: str) -> JsonSchema | None:
        """The JSON Schema that the stage declares under `key`, if it does."""

    @abstractmethod
    def max_tokens_of(self, source: str) -> int | None:
        """The output limit of the stage that a bare path names, where it sets one."""

    @abstractmethod
    def schema_of(self, source: str) -> JsonSchema | None:
        """The schema of the values in the feed that a bare path names, where one is known."""

    @abstractmethod
    def evaluate(self, source: str, variables: Variables) -> Any:
        """The value of an expression."""

    @abstractmethod
    def render(self, template: str, variables: Variables) -> tuple[Message, ...]:
        """The messages of a template, given by name or in full."""

    @abstractmethod
    def text(self, template: str, variables: Variables) -> str:
        """The text of a template, given by name or in full, that makes no messages."""

    @abstractmethod
    def room(self, role: str, max_tokens: int | None = None) -> "Room":
        """What a call to this role has room for, with this output limit or the stage's own."""

    @abstractmethod
    def readable(self) -> int | None:
        """The fewest tokens that a model which reads this stage's items one by one has room for; None if unknown."""

    @abstractmethod
    async def call(self, ask: Ask) -> Answer:
        """Ask a model. Raises ModelError or BudgetError; an answer cut off has the finish reason "length"."""

    @abstractmethod
    async def run_inner(self, name: str) -> Outcome:
        """Run the stage of this name within this one."""

    @abstractmethod
    async def run_pipeline(self, inputs: Mapping[str, Any]) -> Outcome:
        """Run the pipeline that this stage names, on these inputs, within this stage's budget."""

    @abstractmethod
    def decided(
        self, decision: str, reason: str, *, confidence: float | None = None, escalated: bool | None = None
    ) -> None:
        """Tell which of several ways the stage takes, and why; a cascade also whether that is not its first tier."""

    @abstractmethod
    def feed(self, name: str) -> Feed[Item]:
        """The output field `name`, a feed; its end is the end of the stage."""

    @abstractmethod
    def give(self, name: str, value: Any) -> None:
        """Fill the output field `name`, a value. A field is filled once; one never filled is None at the end."""

    @abstractmethod
    def deltas(self, step: str) -> Deltas | None:
        """Where to stream an answer that somebody is watching; None if nobody is."""

    @abstractmethod
    def time_limit(self) -> AbstractAsyncContextManager[object]:
        """Ends its block with TimeoutError once the stage's `timeout` has passed since its first input."""

    @abstractmethod
    def grew(self, known: int, *, final: bool = False) -> None:
        """Say how many items the stage knows of."""

    @abstractmethod
    def finished(self, item: Item) -> None:
        """Say that an item is done with this stage."""

    @abstractmethod
    def keep(self, name: str, value: Any, *, item: int | None = None, of: Ask | None = None) -> None:
        """Decide something for good, as JSON data: when the run is resumed, `kept` gives it.

        For what a resumed run could not work out again in the same way: what the clock has decided, and what was
        taken for good while a reply was still coming. What is decided of a call is given with it: it holds as long
        as that call stays the same, for runs of an edited pipeline too.
        """

    @abstractmethod
    def kept(self, name: str, *, item: int | None = None, of: Ask | None = None) -> Any:
        """What `keep` was given under this name, now or before the run was resumed; None where it was not."""

    @abstractmethod
    def has_reply(self, ask: Ask) -> bool:
        """Whether the reply to this is there already, from before the run was resumed."""

    @abstractmethod
    def set_aside(self, error: FusionError) -> None:
        """What this error's calls replied cannot be used: if the run fails and is resumed, they are asked anew."""

    @abstractmethod
    def note(self, message: str, *, item: int | None = None) -> None:
        """Tell the user something that stops nothing."""
