"""What the history says of runs: each run, its stages and calls, and what tells two runs apart; frozen values."""

from collections import Counter
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from fusion.core.result import Cost, FailedPart, Receipt, Served
from fusion.core.types import Failure, FinishReason, Message, Money, Usage, Value
from fusion.store.rows import RunState


class RunSummary(Value):
    """A run in the history.

    `cost` and `calls` are those of its receipt; of one that is not over, those of its ledger as of now, what is open
    included. `seconds` are those in which a process was at it, in `sessions` times. `parent` is the run that it goes
    back to; `content` is what was kept of its prompts and replies.
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
    """A stage of a run, by its path. `open` is one that had begun and not ended, when the run ended or until now."""

    stage: str
    kind: str
    status: Literal["ok", "skipped", "failed", "open"]
    started: datetime | None
    seconds: float | None
    calls: int = 0
    failed: int = 0
    reused: int = 0
    failure: Failure | None = None


class CallLine(Value):
    """A call of a run, without its texts. `number` counts from 1 over all sessions; `item` counts from 0.

    `state` is "finished", "failed", or "set aside" for a reply that its stage could not use. `reused` is the run that
    answered in place of a model, or `cache`: then `cost` is what it cost when it was made, and was not paid here.
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
    usage: Usage | None = None
    cost: Money | None = None
    finish_reason: FinishReason | None = None
    reused: str | None = None
    failure: Failure | None = None

    @property
    def place(self) -> str:
        """Where it stands in the run: `stage/item/step`, the item counted from 1 and left out where there is none."""
        item = "" if self.item is None else f"{self.item + 1}/"
        return f"{self.stage}/{item}{self.step}"


class CallDetails(CallLine):
    """A call of a run with its texts: `messages` and `text` are None where they were not kept.

    `parameters` is what else was asked: the limit of the output, temperature, the shape of the answer, ….
    `digest` tells questions apart: SHA-256 (hex) of all that was asked, empty where not even that was kept.
    """

    digest: str
    messages: tuple[Message, ...] | None = None
    parameters: dict[str, Any] = Field(default={})
    text: str | None = None
    text_digest: str = ""


class RunDetails(Value):
    """All of a run but the texts of its calls."""

    run: RunSummary
    receipt: Receipt
    models: tuple[Served, ...]
    stages: tuple[StageLine, ...]
    calls: tuple[CallLine, ...]
    failed: tuple[FailedPart, ...]
    notes: tuple[str, ...]


class CallPair(Value):
    """What two runs asked at one place, by the numbers of their calls.

    `same` is the same question with the same reply, `answered anew` the same question with another reply, `different`
    another question; `only a` and `only b` have no counterpart. `not kept` is where one run did not keep enough to
    tell.
    """

    stage: str
    item: int | None
    step: str
    state: Literal["same", "answered anew", "different", "only a", "only b", "not kept"]
    a: int | None = None
    b: int | None = None


class InputDiff(Value):
    """An input that two runs were given differently: a unified diff."""

    name: str
    diff: tuple[str, ...]


class RoleDiff(Value):
    """A role that had other models: the chain of each run, empty where the run had no such role."""

    role: str
    a: tuple[str, ...]
    b: tuple[str, ...]


class RunDiff(Value):
    """What tells two runs apart. Diffs are lines of a unified diff, none where nothing differs.

    `pipeline` is the diff of pipeline and templates. It, `inputs` and `models` are None where a run did not keep
    them, `answer` where one has none or did not keep it.
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
        """How many calls there are of each state."""
        return dict(Counter(pair.state for pair in self.calls))


class StoreSizes(Value):
    """How much a store holds. `cached` are replies in its cache, `bytes` all of it on disk."""

    where: str
    runs: int
    calls: int
    attempts: int
    cached: int
    bytes: int
