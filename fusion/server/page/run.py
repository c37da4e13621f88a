"""One run as the JSON data that the page shows."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Final

from fusion.client.history import History
from fusion.client.history.details import (
    accounts_of,
    call_details,
    call_line,
    command_lines,
    failed_parts,
    kept_result,
    prices_of,
    run_summary,
    tool_lines,
)
from fusion.client.history.run_types import CallDetails, CallLine
from fusion.core.errors import StoreError
from fusion.core.events import EventBase, ItemFinished
from fusion.core.types import as_text
from fusion.engine.durable import record_of
from fusion.engine.manifest import Record
from fusion.models.base import Price
from fusion.pipeline.loader import LoadedPipeline
from fusion.prompts.library import Library
from fusion.server.page.board import OPEN, Board, plan_of
from fusion.server.page.graph import graph_of
from fusion.server.page.retries import Retries
from fusion.server.runs.people import told
from fusion.server.runs.progress import Progress
from fusion.store.base import Store
from fusion.store.gates import gates_of
from fusion.store.lookup import kept_events, run_state
from fusion.store.rows import RunRow

_EXCERPT: Final = 300
_INPUT: Final = 20_000
_TOOLS: Final = 200
"""Most calls of tools, and commands, that are shown."""


class RunView:
    """One run: its state, graph, items and calls as JSON data."""

    def __init__(self, store: Store, row: RunRow, live: Progress) -> None:
        self.store = store
        self.row = row
        self.run_id = row.run_id
        self._live = live

    @cached_property
    def loaded(self) -> LoadedPipeline | None:
        """The pipeline as it was when the run began; None if it was not kept, or this version cannot read it."""
        try:
            return record_of(self.store, self.row).loaded(Library.standard())
        except StoreError:
            return None

    @property
    def board(self) -> Board:
        """A new board of the run, to be refreshed."""
        live = self._live.of(self.run_id)
        kinds = {} if live is None else live.kinds
        if self.loaded is not None:
            kinds = {name: stage.kind for name, stage in self.loaded.pipeline.stages.items()}
        return Board(self.store, self.row, self._live, kinds)

    def whole(self) -> dict[str, Any]:
        """Return the run with everything but its items and calls."""
        board = self.board
        board.refresh()
        self.row = board.row
        result = kept_result(self.store, self.row)
        accounts, was = accounts_of(self.store, self.row)
        receipt = accounts.receipt(self.row.seconds, self.row.tags) if result is None else result.receipt
        failed = failed_parts(was.events) if result is None else result.failed
        loaded = self.loaded
        return {
            "run": run_summary(self.row, board.status).model_dump(mode="json"),
            "state": board.state(),
            "event": board.last_event,
            "graph": None if loaded is None else graph_of(loaded),
            "limits": self._limits(),
            "inputs": self._inputs(),
            "plan": board.plan(),
            "answer": board.answer(),
            "notes": board.notes,
            "gates": self.gates(),
            "commands": [one.model_dump(mode="json") for one in command_lines(was.events)[-_TOOLS:]],
            "tools": [one.model_dump(mode="json") for one in tool_lines(was.events)[-_TOOLS:]],
            "failed": [one.model_dump(mode="json") for one in failed],
            "models": [one.model_dump(mode="json") for one in accounts.served()],
            "receipt": {
                "lines": [_line(line) for line in receipt.lines],
                "times": receipt.times.model_dump(mode="json"),
                "saved": str(receipt.saved.usd),
                "cached": str(receipt.cached),
                "usage": receipt.usage.model_dump(mode="json"),
                "budgets": [one.model_dump(mode="json") for one in receipt.budgets],
            },
        }

    def gates(self) -> list[dict[str, Any]]:
        """Return the questions of the run to people, with their answers."""
        return [told(one) for one in gates_of(self.store, self.run_id)]

    def _limits(self) -> dict[str, Any]:
        record = self.store.record(self.run_id)
        limits: dict[str, Any] = {} if record is None else dict(record.get("limits") or {})
        return {name: str(value) if name == "usd" else value for name, value in limits.items()}

    def _inputs(self) -> list[dict[str, Any]] | None:
        """Return the beginning of each input, or None if none was kept."""
        record = self.store.record(self.run_id)
        if record is None:
            return None
        texts = {name: as_text(value) for name, value in Record(record).inputs.items()}
        return [{"name": name, "text": text[:_INPUT], "length": len(text)} for name, text in texts.items()]

    # Items.

    def items(self, stage: str, *, offset: int = 0, limit: int = 50) -> dict[str, Any]:
        """Return some items of a stage, in order, and the count of all in `total`."""
        calls: defaultdict[int, list[CallLine]] = defaultdict(list)
        for call in self.store.calls(self.run_id, stage=stage):
            if call.key.item is not None:
                calls[call.key.item].append(call_line(call))
        failed = {
            event.item: event.failure
            for event in self._events(ItemFinished)
            if event.stage == stage and event.item is not None
        }
        open_ones = self._open_items(stage)
        indexes = sorted({*calls, *failed, *open_ones})
        values = self._values(stage)
        titles = plan_of(self.store, self.run_id)
        return {
            "total": len(indexes),
            "items": [
                {
                    "index": index,
                    "title": titles[index] if index < len(titles) else _title(values.get(index)),
                    "failure": None if (why := failed.get(index)) is None else why.model_dump(),
                    "open": open_ones.get(index),
                    "value": _excerpt(values.get(index)),
                    **_sums(calls[index]),
                }
                for index in indexes[offset : offset + limit]
            ],
        }

    def _open_items(self, stage: str) -> dict[int, float]:
        """Return the items with an attempt under way, each with the start of the first one."""
        if run_state(self.store, self.row) != "running":
            return {}
        found: dict[int, float] = {}
        for attempt, _ in self.store.attempts(self.run_id, states=OPEN):
            if attempt.stage == stage and attempt.item is not None:
                found.setdefault(attempt.item, attempt.opened)
        return found

    def _values(self, stage: str) -> Mapping[int, Any]:
        """Return the items of a stage by index, once the run has ended."""
        result = kept_result(self.store, self.row)
        found = None if result is None else result.stages.get(stage)
        return {} if found is None else {item.index: item for item in found.items}

    def _events(self, *kinds: type[EventBase]) -> Iterator[Any]:
        return (event for event in kept_events(self.store, self.run_id) if isinstance(event, kinds))

    # Calls.

    def calls(
        self, *, stage: str | None = None, item: int | None = None, after: int = 0, limit: int = 50
    ) -> dict[str, Any]:
        """Return calls in order of number, and the number of the last one in `next` if there are more."""
        calls = self.store.calls(self.run_id, stage=stage, after=after)
        found = list(islice((one for one in calls if item is None or one.key.item == item), limit + 1))
        return {
            "calls": [call_line(call).model_dump(mode="json") for call in found[:limit]],
            "next": found[limit - 1].number if len(found) > limit else None,
        }

    def call(self, number: int) -> dict[str, Any]:
        """Return a call with its texts, its price and its attempts. Raises UsageError if there is none."""
        return self._call(History(self.store).call(self.run_id, number), Retries(self.store, self.run_id))

    def every_call(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of each call, with what `call` returns."""
        retries = Retries(self.store, self.run_id)
        for call in self.store.calls(self.run_id, texts=True):
            yield call.number, self._call(call_details(call, self.row), retries)

    @cached_property
    def _prices(self) -> tuple[dict[str, str], dict[str, Price | None]]:
        """The source and the price of each model."""
        return prices_of(self.store, self.run_id)

    @cached_property
    def _last(self) -> int:
        return self.store.last_numbers(self.run_id)[0]

    def _call(self, details: CallDetails, retries: Retries) -> dict[str, Any]:
        sources, prices = self._prices
        model = details.by or details.asked
        price = prices.get(model)
        return {
            "run_id": self.run_id,
            "call": details.model_dump(mode="json", exclude={"messages"}),
            "messages": None if details.messages is None else [_message(one) for one in details.messages],
            "price": None if price is None else price.model_dump(mode="json"),
            "price_source": sources.get(model, "unknown"),
            "attempts": list(retries.attempts(details)),
            "events": [one.model_dump(mode="json") for one in retries.events(details)],
            "last": self._last,
        }


def _sums(calls: Sequence[CallLine]) -> dict[str, Any]:
    """Return the times and sums of the calls of an item."""
    made = [call for call in calls if call.reused is None]
    begins = [call.started.timestamp() for call in made]
    known = [call.cost for call in made if call.cost is not None]
    return {
        "calls": len(calls),
        "refused": sum(call.state == "failed" for call in calls),
        "reused": len(calls) - len(made),
        "began": min(begins, default=None),
        "ended": max((call.started.timestamp() + call.seconds for call in made), default=None),
        "usd": str(sum(known)) if known else None,
        "tokens": sum(call.usage.total for call in made if call.usage is not None),
        "models": list(dict.fromkeys(call.by or call.asked for call in calls)),
    }


def _line(line: Any) -> dict[str, Any]:
    """Return a line of a receipt with its sums."""
    counts = ("stage", "role", "model", "asked", "calls", "failed", "retries", "fallbacks", "reused", "cancelled")
    return {
        **{name: getattr(line, name) for name in counts},
        "input": line.usage.input,
        "output": line.usage.output,
        "cached_read": line.usage.cached_read,
        "usd": str(line.cost.usd),
        "unknown_calls": line.cost.unknown_calls,
        "estimated": bool(line.estimated.usage.total or line.charged.usage.total),
        "price_source": line.price_source,
    }


def _message(message: Any) -> dict[str, Any]:
    """Return a message with the names of its files in place of their bytes."""
    return {
        "role": message.role,
        "content": message.content,
        "files": [str(file) for _, file in message.files],
        "tool_calls": [one.model_dump() for one in message.tool_calls],
        "tool_call_id": message.tool_call_id,
    }


def _title(item: Any) -> str:
    source = None if item is None else item.source
    if isinstance(source, Mapping):
        source = source.get("title") or source.get("name")
    return source[:_EXCERPT] if isinstance(source, str) else ""


def _excerpt(item: Any) -> str | None:
    return None if item is None or item.failure is not None else as_text(item.value)[:_EXCERPT]
