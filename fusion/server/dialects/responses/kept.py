"""Kept: responses of earlier requests, in the store of their runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from fusion.core.errors import StoreError
from fusion.core.result import Result
from fusion.core.types import ToolCall
from fusion.engine.durable import result_of
from fusion.server.base import KEPT, RefusedError
from fusion.server.dialects.openrouter.call import FusionCall
from fusion.server.dialects.openrouter.choice import call_of
from fusion.server.dialects.responses.response import PREFIX, Json, Told, created_of
from fusion.server.runs.runs import CALLER
from fusion.store.base import Store
from fusion.store.rows import RunRow

_MOST: Final = 1000
"""The most responses of one conversation."""
_ITEMS: Final = ("msg_", "fc_")
Message = Mapping[str, Any]


def kept_of(
    model: str, echo: Mapping[str, Any], messages: Sequence[Message], continues: str | None
) -> Mapping[str, Any]:
    """Return the data to keep with the run of a response: its `messages` are its own, without instructions."""
    return {"model": model, "echo": echo, "messages": messages, "continues": continues}


class KeptResponse:
    """A response in the store: its run, and what was kept of its request."""

    def __init__(self, store: Store, row: RunRow, data: Mapping[str, Any]) -> None:
        self.row = row
        self.continues: str | None = data.get("continues")
        self.messages: Sequence[Message] = data.get("messages", [])
        self._store = store
        self._data = data

    @property
    def call(self) -> FusionCall | None:
        """The panel of the run, if its request asked for one."""
        return call_of(self._data, self._store, self.row.run_id)

    def output(self, result: Result) -> list[Json]:
        """Return the items of the output of a run that has ended."""
        call = self.call
        return [*([] if call is None else [call.item(result)]), *self.told.output(result)]

    @property
    def told(self) -> Told:
        """The facts of the response."""
        row, data, call = self.row, self._data, self.call
        return Told(
            run_id=row.run_id,
            model=call.model if call is not None else data.get("model", f"fusion/{row.pipeline}"),
            created=created_of(row.run_id, int(row.started)),
            echo=data.get("echo", {}),
        )

    @property
    def is_over(self) -> bool:
        """True once the run has ended, with an answer or without one."""
        return self.row.ended is not None and self.row.status != "waiting"

    @property
    def has_ended(self) -> bool:
        """True for a run that was not cut off."""
        return self.is_over and self.row.status != "interrupted"

    def result(self) -> Result:
        """Return the Result of a run that has ended. Raises RefusedError if it was not kept."""
        try:
            return result_of(self._store, self.row)
        except StoreError as error:
            raise RefusedError(str(error), status=404, kind="not_found_error", code="response_not_found") from error


class KeptResponses:
    """The responses of a caller in a store."""

    def __init__(self, store: Store, caller: str | None = None) -> None:
        self.store = store
        self._caller = caller

    def of(self, caller: str | None) -> "KeptResponses":
        """Return those of a caller."""
        return KeptResponses(self.store, caller)

    def find(self, response_id: str, param: str = "response_id") -> KeptResponse:
        """Return a response by its id. Raises RefusedError with status 404."""
        row = None
        if response_id.startswith(PREFIX):
            self.store.flush()
            row = self.store.run(response_id.removeprefix(PREFIX))
        if row is None or row.tags.get(CALLER) != self._caller:
            raise RefusedError(
                f"no response {response_id!r} is kept here; ids of responses begin with {PREFIX!r}",
                status=404,
                kind="not_found_error",
                param=param,
                code="previous_response_not_found" if param == "previous_response_id" else "response_not_found",
            )
        found: Mapping[str, Any] = next(
            (one.value for one in self.store.decisions(row.run_id) if one.name == KEPT and not one.stage), {}
        )
        return KeptResponse(self.store, row, found)

    def conversation(self, response_id: str) -> list[Message]:
        """Return the messages up to a response and its answer, without the instructions of earlier requests."""
        parts = [self._turn(one) for one in self._line(response_id)]
        return [message for part in reversed(parts) for message in part]

    def referred(self, item_id: str, where: str) -> list[Message]:
        """Return the message behind the id of an item, or none for one that an answer is not written from."""
        if not item_id.startswith(_ITEMS):
            return []
        run_id, _, number = item_id.partition("_")[2].rpartition("_")
        result = self._over(self.find(f"{PREFIX}{run_id}", where), where).result()
        if item_id.startswith(_ITEMS[0]):
            return [{"role": "assistant", "content": result.text}]
        called = [call_message(call) for at, call in enumerate(result.tool_calls, start=1) if str(at) == number]
        return [{"role": "assistant", "content": None, "tool_calls": called}] if called else []

    def _line(self, response_id: str) -> Iterator[KeptResponse]:
        """Yield a response and those that it continues, latest first."""
        wanted: str | None = response_id
        for _ in range(_MOST):
            if wanted is None:
                return
            one = self._over(self.find(wanted, "previous_response_id"), "previous_response_id")
            yield one
            wanted = one.continues

    def _over(self, one: KeptResponse, param: str) -> KeptResponse:
        if not one.is_over:
            raise RefusedError(
                f"response {one.told.response_id!r} has not ended; wait for its end, then send the request again",
                param=param,
                code="response_in_progress",
            )
        return one

    def _turn(self, one: KeptResponse) -> list[Message]:
        return [*one.messages, answer_message(one.result())]


def answer_message(result: Result) -> dict[str, Any]:
    """Return the answer of a run as a message."""
    if not result.tool_calls:
        return {"role": "assistant", "content": result.text}
    calls = [call_message(call) for call in result.tool_calls]
    return {"role": "assistant", "content": result.text or None, "tool_calls": calls}


def call_message(call: ToolCall) -> dict[str, Any]:
    """Return a call of a tool as a part of a message."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
