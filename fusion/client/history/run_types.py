"""Values of the history: runs, their stages and calls, and the differences of two runs."""

from collections import Counter
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from fusion.core.result import Cost, FailedPart, Receipt, Served
from fusion.core.types import (
    AnsweredGate,
    Effect,
    Failure,
    FinishReason,
    Message,
    Money,
    StoppedBy,
    Usage,
    Value,
    Waited,
)
from fusion.store.rows import RunState


class RunSummary(Value):
    """A run in the history.

    `cost` and `calls` are those of its receipt; for an unfinished run, those of its ledger, open attempts included.
    `seconds` counts its working time over all `sessions`. `parent` is the run whose calls it reuses; `content` says
    how much of its prompts and replies was kept.
    """

    run_id: str
    status: RunState
    pipeline: str
    profile: str
    started: datetime
    ended: datetime | None
    seconds: float
    cost: Cost
    calls: int
    sessions: int
    tags: dict[str, str]
    parent: str | None
    content: Literal["full", "digest", "off"]
    failure: Failure | None


class StageLine(Value):
    """A stage of a run, by its path. `open` has started and not finished; `waiting` waits for a person."""

    stage: str
    kind: str
    status: Literal["ok", "skipped", "failed", "waiting", "open"]
    started: datetime | None
    seconds: float | None
    calls: int = 0
    failed: int = 0
    reused: int = 0
    failure: Failure | None = None


class CallLine(Value):
    """A call of a run, without its texts. `number` counts from 1 over all sessions; `item` counts from 0.

    `state` is "finished", "failed", or "set aside" for a reply that its stage could not use. `reused` is `cache` or
    the id of the run that the reply was reused from; `cost` is then the original cost, not paid here.

    `seconds` is the whole time of the call, `latency` the part from the request sent to the answer; `waited` is the
    time before it, None if the call did not wait or the version that made it kept none.
    """

    number: int
    stage: str
    item: int | None
    step: str
    role: str
    asked: str
    by: str | None = None
    served: str = ""
    state: Literal["finished", "failed", "set aside"]
    started: datetime
    seconds: float
    latency: float | None = None
    waited: Waited | None = None
    usage: Usage | None = None
    cost: Money | None = None
    finish_reason: FinishReason | None = None
    reused: str | None = None
    failure: Failure | None = None

    @property
    def place(self) -> str:
        """Place in the run: `stage/item/step`, the item counted from 1, or `stage/step` without items."""
        item = "" if self.item is None else f"{self.item + 1}/"
        return f"{self.stage}/{item}{self.step}"


class ToolLine(Value):
    """A call of a tool, without its result. `arguments` is the beginning of its arguments as JSON, if it was kept."""

    stage: str
    item: int | None
    step: str
    tool: str
    effect: Effect
    status: Literal["ok", "failed", "cancelled"]
    started: datetime
    seconds: float
    size: int = 0
    arguments: str = ""
    failure: Failure | None = None


class CommandLine(Value):
    """A command in the sandbox, without its output: its program, the sandbox `by` which it ran, and its end."""

    stage: str
    item: int | None
    program: str
    by: str
    code: int
    stopped_by: StoppedBy | None = None
    started: datetime
    seconds: float


class CallDetails(CallLine):
    """A call of a run with its texts: `messages` and `text` are None if they were not kept.

    `parameters` are the other parameters of the request: output limit, temperature, schema, …. `digest` identifies
    the request: SHA-256 (hex) of all its parts, empty if it was not kept.
    """

    digest: str
    messages: tuple[Message, ...] | None = None
    parameters: dict[str, Any] = Field(default={})
    text: str | None = None
    text_digest: str = ""


class RunDetails(Value):
    """A run with everything but the texts of its calls; `tools` are its calls of tools.

    `commands` are those that it ran in the sandbox, `gates` its questions to people, with their answers.
    """

    run: RunSummary
    receipt: Receipt
    models: tuple[Served, ...]
    stages: tuple[StageLine, ...]
    calls: tuple[CallLine, ...]
    tools: tuple[ToolLine, ...] = ()
    commands: tuple[CommandLine, ...] = ()
    failed: tuple[FailedPart, ...]
    notes: tuple[str, ...]
    gates: tuple[AnsweredGate, ...] = ()


class CallPair(Value):
    """The calls of two runs at one place, by their numbers.

    `same` is the same request with the same reply, `answered anew` the same request with another reply, `different`
    another request; `only a` and `only b` have no counterpart. `not kept` means that a run kept too little to tell.
    """

    stage: str
    item: int | None
    step: str
    state: Literal["same", "answered anew", "different", "only a", "only b", "not kept"]
    a: int | None = None
    b: int | None = None


class InputDiff(Value):
    """An input that differs between two runs, as a unified diff."""

    name: str
    diff: tuple[str, ...]


class RoleDiff(Value):
    """A role whose models differ: the chain of each run, empty if the run has no such role."""

    role: str
    a: tuple[str, ...]
    b: tuple[str, ...]


class RunDiff(Value):
    """The differences of two runs. Diffs are lines of a unified diff, empty for equal parts.

    `pipeline` is the diff of pipeline and templates. It, `inputs` and `models` are None if a run did not keep them;
    `answer` is None if a run has no answer or did not keep it.
    """

    a: RunSummary
    b: RunSummary
    pipeline: tuple[str, ...] | None
    inputs: tuple[InputDiff, ...] | None
    models: tuple[RoleDiff, ...] | None
    calls: tuple[CallPair, ...]
    answer: tuple[str, ...] | None

    @property
    def counts(self) -> dict[str, int]:
        """Count of calls by state."""
        return dict(Counter(pair.state for pair in self.calls))


class StoreSizes(Value):
    """The contents of a store: its rows, replies in its cache (`cached`), and bytes on disk."""

    where: str
    runs: int
    calls: int
    attempts: int
    cached: int
    bytes: int
