"""Continuing: the options of a run that goes on with the results of tools, from the run that asked for them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fusion.core.errors import StoreError, UsageError, close_names
from fusion.core.params import AnswerOptions
from fusion.core.result import call_id
from fusion.core.types import Message, Reply, ToolCall
from fusion.engine.durable import record_of, result_of
from fusion.engine.manifest import Record
from fusion.prompts.library import Library
from fusion.store.base import Store
from fusion.store.rows import RunRow

_ENDED: Final = ("ok", "partial")


def continued(
    store: Store, library: Library, row: RunRow, results: Mapping[str, str], options: AnswerOptions | None
) -> tuple[Record, AnswerOptions]:
    """Return the record of a run, and the options with which it goes on after these results by call id.

    Options that are set replace those of the run; turns among them follow the results.

    Raises UsageError for a run that cannot go on so, for unknown ids and for calls without a result.
    """
    if row.status not in _ENDED:
        raise UsageError(f"run {row.run_id!r} has no answer to go on from; `fusion resume` finishes it")
    record = record_of(store, row)
    loaded = record.loaded(library)
    place = loaded.answering
    if place is None or "turns" not in loaded.stages[place].obeys:
        raise UsageError(
            f"run {row.run_id!r} cannot go on: {row.pipeline!r} does not end with a generate, merge or synthesize "
            "stage"
        )
    before = record.answer or AnswerOptions()
    reply = _answered(store, row, place)
    _check(row, reply, results)
    more = () if options is None else options.turns
    if not (results or more):
        raise UsageError(f"run {row.run_id!r} goes on with results of tools, or with further `turns` in `answer`")
    calls = _apart(reply.tool_calls, before.turns)
    said = Message(role="assistant", content=reply.text, tool_calls=calls)
    turns = (*before.turns, said, *_results(row, calls, results), *more)
    changes = {} if options is None else {name: one for name, one in options.given.items() if name != "turns"}
    kept: dict[str, Any] = {**before.given, **_settled(before, results), **changes}
    return record, AnswerOptions(**{**kept, "turns": turns})


def _answered(store: Store, row: RunRow, place: str) -> Reply:
    """Return the last reply of the stage that wrote the answer. Raises UsageError if no model did."""
    result = result_of(store, row)
    found: Reply | None = None
    for index in store.calls(row.run_id):
        if index.key.stage == place and index.state == "finished":
            call = store.call(row.run_id, index.number)
            found = found if call is None or call.reply is None else call.reply
    if found is None:
        raise UsageError(f"run {row.run_id!r} cannot go on: its answer was made without a model")
    if len(found.tool_calls) != len(result.tool_calls):
        raise StoreError(f"run {row.run_id!r} cannot go on: the store no longer has its calls of tools")
    if found.tool_calls:
        return found
    return found.model_copy(update={"text": result.text})


def _check(row: RunRow, reply: Reply, results: Mapping[str, str]) -> None:
    wanted = [call_id(row.run_id, number) for number in range(1, len(reply.tool_calls) + 1)]
    if results and not wanted:
        raise UsageError(f"run {row.run_id!r} ended without calls of tools, so there is nothing to give results of")
    for given, result in results.items():
        if given not in wanted:
            raise UsageError(f"run {row.run_id!r} has no call {given!r}{close_names(given, wanted)}")
        if not isinstance(result, str):
            raise UsageError(f"the result of {given!r} is {type(result).__name__}; give a text, such as JSON")
    missing = [one for one in wanted if one not in results]
    if missing:
        raise UsageError(f"run {row.run_id!r} waits for the results of {', '.join(missing)}; give all of them")


def _results(row: RunRow, calls: Sequence[ToolCall], results: Mapping[str, str]) -> list[Message]:
    return [
        Message(role="tool", content=results[call_id(row.run_id, number)], tool_call_id=call.id)
        for number, call in enumerate(calls, start=1)
    ]


def _apart(calls: Sequence[ToolCall], before: Sequence[Message]) -> tuple[ToolCall, ...]:
    """Return the calls with ids that no other call of the conversation has: some servers repeat theirs."""
    taken = {call.id for turn in before for call in turn.tool_calls}
    found = []
    for call in calls:
        own, number = call.id or "call", len(taken)
        while own in taken or own == "call":
            number += 1
            own = f"call{number:06}"
        taken.add(own)
        found.append(call.model_copy(update={"id": own}))
    return tuple(found)


def _settled(before: AnswerOptions, results: Mapping[str, str]) -> dict[str, Any]:
    """Return the choice of tools after their results: a forced one is done, or no answer would ever come."""
    return {"tool_choice": "auto"} if results and before.tool_choice not in ("auto", "none") else {}
