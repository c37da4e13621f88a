"""Context of a stage: its only door to inputs, outputs, models, journal and events."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from fusion.core.errors import BudgetError, FusionError
from fusion.core.params import AnswerOptions
from fusion.core.result import Judged
from fusion.core.types import (
    Attached,
    CallKey,
    Deltas,
    Effect,
    Finished,
    FinishReason,
    GateAnswer,
    GateQuestion,
    Item,
    JsonSchema,
    Message,
    ProcessLimits,
    ToolCall,
    ToolResult,
    ToolSpec,
    ToolTerms,
)
from fusion.models.base import ModelInfo
from fusion.models.catalog.learned import Figures
from fusion.models.speed import Latencies
from fusion.stages.feed import Feed
from fusion.stages.text.reading import Reading
from fusion.stages.text.sections import Sections

Variables = Mapping[str, Any]


class Ask(NamedTuple):
    """A call of a stage to a model: to the models of a role, or to one `model`.

    `step` names the call within the stage (`work`, `verdict`, `revise-1`) for the content key. With `parse` the
    answer is parsed by `schema`; without, the schema is requested and the text is returned as it is. `sample`
    numbers calls that are equal and need answers of their own. Models of the role's chain in `avoid` are called last.
    `tools` are the tools that the model may call, and `tool_choice` is that of Request. Parameters of `options` come
    before those of stage and role, as far as the model takes them; its `max_tokens` lowers the limit.
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
    avoid: tuple[str, ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = "auto"
    options: AnswerOptions | None = None


class Answer(NamedTuple):
    """The answer to an Ask: `data` if there is a schema, the model `by` which it was written, and its calls.

    `tool_calls` are the tools that the model wants called, `results` the messages with results of tools that it has
    read.
    """

    text: str
    data: Any
    by: str
    finish_reason: FinishReason
    calls: tuple[CallKey, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    results: tuple[Message, ...] = ()

    @property
    def value(self) -> Any:
        """The data if there is a schema, else the text."""
        return self.text if self.data is None else self.data


class Conclusion(NamedTuple):
    """The end of the last call of an answer: its finish reason, the tools that the model wants called, the model."""

    finish_reason: FinishReason = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    by: str = ""


class Outcome(NamedTuple):
    """The output of an inner stage or a nested pipeline."""

    text: str
    data: Any = None
    confidence: float | None = None


class Round(NamedTuple):
    """A finished round of a body: its output; `read` returns the values that an expression reads, by its key."""

    outcome: Outcome
    read: Callable[[str], Awaitable[dict[str, Any]]]


class Room(NamedTuple):
    """Tokens that a call may read, None where the model's context is unknown, and tokens that it may write.

    `answer` is the limit of an answer with all its continuations, None without one.
    """

    input: int | None
    output: int
    answer: int | None = None


class Producer(NamedTuple):
    """Output shape and limit of the stage that wrote some items; None for each that is unknown."""

    schema: JsonSchema | None = None
    max_tokens: int | None = None


class StageInputs(ABC):
    """Inputs of a stage: values, items, expressions and templates."""

    @abstractmethod
    async def values(self) -> dict[str, Any]:
        """Return the variables of templates and expressions, once every input that is not followed is complete."""

    @abstractmethod
    def follow(self, expression: str) -> AsyncIterator[Item]:
        """Yield the items of an expression: as they arrive for a bare path, else once it has its value."""

    @abstractmethod
    def evaluate(self, expression: str, values: Variables) -> Any:
        """Return the value of an expression."""

    @abstractmethod
    async def value_of(self, expression: str, values: Variables) -> Any:
        """Return the value of an expression over text of any size, without holding up the event loop."""

    @abstractmethod
    def render(self, template: str, values: Variables) -> tuple[Message, ...]:
        """Return the messages of a template, given by name or in full.

        Those that take long to render are rendered once they are sent.
        """

    @abstractmethod
    async def text(self, template: str, values: Variables) -> str:
        """Return the text of a template, given by name or in full, that makes no messages."""

    @abstractmethod
    def schema(self, key: str) -> JsonSchema | None:
        """Return the JSON Schema that the stage declares under `key`, if any."""

    @abstractmethod
    def material(self, item: Item, needed: Sequence[Item] = ()) -> Attached:
        """Return the material of an item: sections for a subtask; nothing for rows, chunks and other elements."""

    @abstractmethod
    def reading(self, item: Item, needed: Sequence[Item] = ()) -> Reading | None:
        """Return the sections that a subtask names; None if it reads the material whole, or none of it."""

    @abstractmethod
    def sections(self, parts: Sequence[Any] | None = None) -> tuple[Sections, bool]:
        """Return the sections of the material, or these parts as sections; True if subtasks name them.

        Raises InputError if the parts are not a list.
        """

    @property
    @abstractmethod
    def combines(self) -> bool:
        """True if a later stage combines the values of this stage's subtasks."""

    @abstractmethod
    def planned(self, field: str) -> Any:
        """Return a field of the plan from which the items come; None without a plan."""

    @abstractmethod
    def producer(self, expression: str) -> Producer:
        """Return shape and limit of the stage that wrote the items of a bare path; empty for other expressions."""

    def author(self, expression: str) -> str:
        """Return the model that wrote the answer of the stage which a bare path names; empty if it is unknown."""
        return ""


class StageOutputs(ABC):
    """Output fields of a stage."""

    @abstractmethod
    def feed(self, name: str) -> Feed[Item]:
        """Return the output field `name`, a feed. It ends when the stage ends."""

    @abstractmethod
    def give(self, name: str, value: Any) -> None:
        """Fill the output field `name`, a value: once. A field that is never filled is None at the end."""

    @abstractmethod
    def conclude(self, conclusion: Conclusion) -> None:
        """Record the end of the last call of the stage's answer, for the Result of a run that it answers."""

    @property
    @abstractmethod
    def keeps_shown(self) -> bool:
        """True if a later template reads what the items of this stage were written from."""

    @abstractmethod
    def settle(self, item: Item) -> None:
        """Append a finished item to the first output field, and send an ItemFinished event."""

    @abstractmethod
    def judged(self, verdict: Judged) -> None:
        """Record the first verdict on a result, for `Result.stages`. A later one replaces one that was not given."""

    @abstractmethod
    def grow(self, known: int, *, final: bool = False, title: str = "") -> None:
        """Report the number of items known so far and the newest one's title; `final` if no more will come."""


class StageModels(ABC):
    """Models, inner stages and nested pipelines that a stage calls."""

    speed: Latencies
    """Recent latencies of models."""

    @abstractmethod
    async def call(self, ask: Ask) -> Answer:
        """Call a model. Raises ModelError or BudgetError; a truncated answer has the finish reason "length"."""

    @abstractmethod
    def afforded(self, refusal: BudgetError) -> None:
        """Withdraw the refusal of a call that what is held back has paid for: it ends nothing."""

    @abstractmethod
    def plays(self, role: str) -> bool:
        """Return True if a model plays a role; False if the role is `none`."""

    @abstractmethod
    def info(self, role: str) -> ModelInfo:
        """Return the first model of a role."""

    @abstractmethod
    def room(self, role: str, max_tokens: int | None = None) -> Room:
        """Return the tokens that a call to a role may read and write, under this limit or the stage's own."""

    def learned(self, label: str, role: str) -> Figures | None:
        """Return the learned figures of the first model of a role on a label, if it was measured."""
        return None

    @abstractmethod
    def readable(self) -> int | None:
        """Return the smallest input room among the stages that read this stage's items one by one, if known."""

    @abstractmethod
    def stream(self, step: str) -> Deltas | None:
        """Return the receiver of a streamed answer; None if the answer is not streamed."""

    @abstractmethod
    async def run_stage(self, name: str, variables: Variables | None = None) -> Outcome:
        """Run the inner stage of this name; for the `item` of the variables, if they are given."""

    @abstractmethod
    async def run_pipeline(self, inputs: Mapping[str, Any]) -> Outcome:
        """Run the pipeline that this stage names on these inputs, within this stage's budget."""

    @abstractmethod
    async def run_round(self, number: int, variables: Variables) -> Round:
        """Run a round of this stage's body, whose stages read these variables too.

        Raises BudgetError before any call, under `on_budget: finish`, for a later round that no longer fits.
        """


class StageJournal(ABC):
    """Decisions and replies of a stage that outlive its process. Without a store it keeps nothing."""

    @abstractmethod
    def keep(self, name: str, value: Any, *, item: int | None = None, of: Ask | None = None) -> None:
        """Record a decision for good, as JSON data. `kept` returns it when the run is resumed.

        Use it for a decision that a resumed run could not repeat: one made by the clock, or on a partial reply. A
        decision `of` a call holds while that call stays the same, also in runs of an edited pipeline.
        """

    @abstractmethod
    def kept(self, name: str, *, item: int | None = None, of: Ask | None = None) -> Any:
        """Return the decision of this name, from this process or an earlier one of the run; None if absent."""

    @abstractmethod
    def has_reply(self, ask: Ask) -> bool:
        """Return True if an earlier process of the run recorded the reply to this call."""

    @abstractmethod
    def set_aside(self, error: FusionError) -> None:
        """Mark the replies behind an error as unusable: if the run fails and is resumed, they are requested anew."""


class StageTools(ABC):
    """Tools of the run, by name."""

    @abstractmethod
    async def specs(self, names: Sequence[str]) -> tuple[ToolSpec, ...]:
        """Return the tools of these names as a model sees them; a name may stand for several.

        Raises StageError for a tool that cannot be had, and for two of one name.
        """

    @abstractmethod
    def effect(self, name: str) -> Effect:
        """Return the effect of a tool, by the name in its spec."""

    @abstractmethod
    async def call(
        self,
        name: str,
        arguments: str | Mapping[str, Any],
        *,
        step: str,
        item: int | None = None,
        terms: ToolTerms | None = None,
    ) -> ToolResult:
        """Call a tool, once for each `step`: its result is journaled before it is returned.

        `name` is that of a spec, or one that a pipeline writes. `arguments` are data, or JSON text as a model wrote
        it. A call that fails, is late or has unfit arguments returns a result that says so. Raises StageError for a
        call that may have taken effect in an earlier process of the run and must not be repeated.
        """


class StageSandbox(ABC):
    """The sandbox: the only place where code that a model wrote runs."""

    @abstractmethod
    async def run(
        self,
        argv: Sequence[str],
        *,
        files: Mapping[str, str | bytes] | None = None,
        stdin: str = "",
        limits: ProcessLimits | None = None,
        item: int | None = None,
        plain: str | None = None,
    ) -> Finished:
        """Run a command beside these files, named by relative paths, and return its end.

        `plain` is Python code that does the same without files and input; an interpreter may run it instead.

        An equal command of the same stage and item, also in a resumed run, gets the same end without running again.
        Raises StageError if there is no sandbox.
        """


class StageGates(ABC):
    """People of the run: questions to them, and their answers."""

    @abstractmethod
    async def ask(self, question: GateQuestion, *, item: int | None = None) -> GateAnswer:
        """Return the answer to a question, which may be a no.

        Raises Waits while there is none: all other work goes on, then the run waits without a process. Once the
        question is answered the stage runs again. Answers are decisions: equal questions of a stage are asked once.
        """


class StageEvents(ABC):
    """Events that a stage sends beside those of its calls and items."""

    @abstractmethod
    def note(self, message: str, *, item: int | None = None) -> None:
        """Send a Noted event: a remark for the user that stops nothing."""

    @abstractmethod
    def decided(
        self, decision: str, reason: str, *, confidence: float | None = None, escalated: bool | None = None
    ) -> None:
        """Send a Decided event: the way that the stage takes, and why. A cascade says if it left its first tier."""


class StageContext(ABC):
    """Context of a stage: its services, the only access to the rest of the run."""

    inputs: StageInputs
    outputs: StageOutputs
    models: StageModels
    journal: StageJournal
    events: StageEvents
    tools: StageTools
    sandbox: StageSandbox
    gates: StageGates
    seed: str
    """Seed of every random order: the same for this stage in each process of the run."""
    answer: AnswerOptions | None = None
    """Options of the run for its answer, those that this stage obeys; None if another stage writes the answer."""
    finishing: bool
    """True if an exhausted budget ends the work but not the run (`on_budget: finish`)."""

    @abstractmethod
    def wanted(self, items: int) -> int:
        """Return the number of so many items that later stages need at least (their `min_ok`); 1 by default."""

    @abstractmethod
    def now(self) -> float:
        """Return the seconds of the run's clock, which stands still while it waits for batches."""

    @abstractmethod
    def time_limit(self) -> AbstractAsyncContextManager[object]:
        """Return a block that raises TimeoutError once the stage's `timeout` has passed since its first input."""
