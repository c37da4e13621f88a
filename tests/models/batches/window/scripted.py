"""A scripted batch API, and models that have it: what a provider does is set row by row and batch by batch."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fusion import ScriptedModel, Settings
from fusion.core.config.tables import BatchesTable
from fusion.core.errors import ModelError
from fusion.core.types import Reply, Request, Usage
from fusion.models.base import ModelInfo, Price
from fusion.models.batches.base import BatchDoor, BatchState, BatchStatus, Ended, Entry
from tests.conftest import said

PRICE = Price(input=Decimal("0.000002"), output=Decimal("0.000008"))
USAGE = Usage(input=100, output=50)
LIVE = PRICE.of(USAGE)
HALF = LIVE / 2
QUICK = BatchesTable(quiet=0.02, poll=0.01, slowest_poll=0.05)


@dataclass
class Kept:
    """A batch at the provider."""

    name: str
    entries: Sequence[Entry]
    status: BatchStatus = "open"
    message: str = ""
    polls: int = 0


@dataclass
class Provider:
    """What the provider holds, and does. It outlives the doors to it.

    `polls` is the number of looks at a batch until it ends, and `ends` the states of batches in turn, "ended" after
    them. `outcomes` returns for the text of a row its outcomes, one for each result. `refuse` are errors of the next
    submissions, `lose` those after which the batch exists all the same. `unseen` is the number of looks that do not
    find a batch yet. `hold` keeps batches open.
    """

    polls: int = 0
    ends: list[tuple[BatchStatus, str]] = field(default_factory=list)
    answer: Callable[[str], Any] = lambda text: f"answer to {text}"
    refuse: list[ModelError] = field(default_factory=list)
    lose: list[ModelError] = field(default_factory=list)
    broken_states: list[ModelError] = field(default_factory=list)
    broken_results: list[ModelError] = field(default_factory=list)
    unseen: int = 0
    hold: bool = False
    reverse: bool = False
    batches: dict[str, Kept] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    submitted: list[list[str]] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    read: int = 0
    on: dict[str, Callable[[], None]] = field(default_factory=dict)
    """Called at a moment: submit, submitted, state, results."""

    def at(self, moment: str) -> None:
        self.on.get(moment, lambda: None)()

    @property
    def sent(self) -> list[str]:
        """The texts of all rows that were submitted."""
        return [text for one in self.submitted for text in one]


class ScriptedBatches(BatchDoor):
    """The door to a Provider."""

    def __init__(
        self, info: ModelInfo, provider: Provider, *, most_rows: int = 10_000, most_bytes: int = 10_000_000
    ) -> None:
        self.info = info
        self.provider = provider
        self.most_rows = most_rows
        self.most_bytes = most_bytes

    def takes(self, request: Request) -> bool:
        return not request.extra.get("live")

    def size(self, entry: Entry) -> int:
        return len(said(entry.request))

    async def submit(self, entries: Sequence[Entry], name: str) -> str:
        provider = self.provider
        provider.at("submit")
        await asyncio.sleep(0)
        assert len({one.custom_id for one in entries}) == len(entries)
        if provider.refuse:
            raise provider.refuse.pop(0)
        batch_id = f"batch_{len(provider.batches) + 1}"
        provider.batches[batch_id] = Kept(name, tuple(entries))
        provider.submitted.append([text_of(one.request) for one in entries])
        provider.at("submitted")
        if provider.lose:
            raise provider.lose.pop(0)
        return batch_id

    async def find(self, name: str, custom_ids: Collection[str]) -> str | None:
        self.provider.looked.append(name)
        assert custom_ids
        if self.provider.unseen:
            self.provider.unseen -= 1
            return None
        return next((one for one, kept in self.provider.batches.items() if kept.name == name), None)

    async def state(self, batch_id: str) -> BatchState:
        provider, kept = self.provider, self.provider.batches[batch_id]
        provider.at("state")
        await asyncio.sleep(0)
        if provider.broken_states:
            raise provider.broken_states.pop(0)
        kept.polls += 1
        if kept.status == "open" and kept.polls > provider.polls and not provider.hold:
            kept.status, kept.message = provider.ends.pop(0) if provider.ends else ("ended", "")
        total = len(kept.entries)
        done = total if kept.status == "ended" else min(kept.polls, total)
        return BatchState(status=kept.status, total=total, done=done, message=kept.message)

    async def results(self, batch_id: str, requests: Mapping[str, Request]) -> AsyncIterator[Ended]:
        provider, kept = self.provider, self.provider.batches[batch_id]
        provider.at("results")
        provider.read += 1
        rows = [one for one in kept.entries if one.custom_id in requests]
        for number, entry in enumerate(reversed(rows) if provider.reverse else rows):
            if number == 1 and provider.broken_results:
                raise provider.broken_results.pop(0)
            for outcome in self._outcomes(entry):
                yield outcome

    def _outcomes(self, entry: Entry) -> list[Ended]:
        given = self.provider.answer(text_of(entry.request))
        outcomes = given if isinstance(given, list) else [given]
        return [_ended(entry, one, self.info.id) for one in outcomes]

    async def cancel(self, batch_id: str) -> None:
        self.provider.cancelled.append(batch_id)


def _ended(entry: Entry, outcome: Any, model: str) -> Ended:
    if isinstance(outcome, ModelError):
        return Ended(entry.custom_id, None, outcome)
    reply = Reply(text=str(outcome), finish_reason="stop", usage=USAGE, asked=model, served=model)
    return Ended(entry.custom_id, reply, None)


def text_of(request: Request) -> str:
    """The last line of a request."""
    return said(request).strip().splitlines()[-1]


class BatchModel(ScriptedModel):
    """A scripted model with a batch API. Its live calls are in `requests`."""

    def __init__(
        self, provider: Provider, script: Any = "live", *, name: str = "scripted/batch", **door: Any
    ) -> None:
        super().__init__(
            _as_used(script), info=ModelInfo(id=name, provider="scripted", price=PRICE, json_schema=True)
        )
        self.door = ScriptedBatches(self.info, provider, **door)

    def batch_door(self) -> BatchDoor:
        return self.door

    @property
    def live(self) -> list[str]:
        """The texts of the calls that were made live, in order."""
        return [text_of(request) for request in self.requests]


def _as_used(script: Any) -> Any:
    from fusion.models.providers.scripted import Say

    return Say(script, usage=USAGE) if isinstance(script, str) else script


def quick(**times: Any) -> Settings:
    """Settings with short times of batches."""
    return Settings.from_environment().model_copy(update={"batches": QUICK.model_copy(update=times)})


def numbered() -> Callable[[], int]:
    return itertools.count(1).__next__
