"""Gates of kept runs: the open questions to people, and their answers; the first answer wins."""

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from fusion.core.errors import GateError, UsageError, close_names
from fusion.core.schema import validate
from fusion.core.schema.strict_json import loaded
from fusion.core.types import (
    AnsweredGate,
    Gate,
    GateAnswer,
    Verdict,
    Via,
    answers_gate,
    as_text,
    opens_gate,
    whole_data,
    whole_text,
)
from fusion.store.base import Store
from fusion.store.rows import Decision

_MOST: Final = 20_000
"""Characters that an answer may always have; those of a long text twice as many as it."""
_SHOWN_FLAWS: Final = 5


def gates_of(store: Store, run_id: str) -> tuple[AnsweredGate, ...]:
    """Return the gates of a run in the order in which they were opened, each with its answer.

    Of several open ones at one place the last counts: the text of the others is no longer shown.
    """
    decisions = store.decisions(run_id)
    answers = {
        (one.stage, one.item, one.name): GateAnswer.model_validate(one.value)
        for one in decisions
        if answers_gate(one.name)
    }
    opened = [gate_of(one.stage, one.item, one.name, one.value) for one in decisions if opens_gate(one.name)]
    found = [
        AnsweredGate(gate=gate, answer=answers.get((gate.stage, gate.item, gate.answer_name))) for gate in opened
    ]
    last = {one.gate.place: one for one in found}
    return tuple(one for one in found if one.answer is not None or last[one.gate.place] is one)


def gate_of(stage: str, item: int | None, name: str, value: Any) -> Gate:
    """Return the gate that a decision opened."""
    return Gate(stage=stage, item=item, name=name, **value)


def open_gates(store: Store, run_id: str) -> tuple[Gate, ...]:
    """Return the gates of a run without an answer."""
    return tuple(one.gate for one in gates_of(store, run_id) if one.answer is None)


def goes_on(store: Store, waiting: Iterable[Gate], run_id: str, *, now: float | None = None) -> bool:
    """Return True if a run that waits at these gates can go on: one is answered, or its deadline has passed."""
    answered = {one.gate.name for one in gates_of(store, run_id) if one.answer is not None}
    at = time.time() if now is None else now
    return any(gate.name in answered or is_due(gate, at) for gate in waiting)


def is_due(gate: Gate, now: float) -> bool:
    """Return True once the deadline of a gate has passed, by the wall clock in seconds since 1970."""
    return gate.deadline is not None and now >= gate.deadline.timestamp()


def chosen_gate(store: Store, run_id: str, place: str | None) -> Gate:
    """Return the open gate of a run at a place, such as `approve` or `ask/3`; without a place the only one.

    Raises GateError if it was answered before, UsageError if there is none, or several.
    """
    gates = gates_of(store, run_id)
    found = [one for one in gates if place is None or place in (one.gate.place, one.gate.stage)]
    waiting = [one.gate for one in found if one.answer is None]
    if len(waiting) == 1:
        return waiting[0]
    if waiting:
        names = ", ".join(gate.place for gate in waiting)
        raise UsageError(f"run {run_id!r} waits at {len(waiting)} gates; name one of them: {names}")
    if found and (last := found[-1].answer) is not None:
        raise GateError(f"{found[-1].gate.place!r} of run {run_id!r} is {last}", winner=last)
    if not gates:
        raise UsageError(f"run {run_id!r} waits at no gate")
    raise UsageError(f"run {run_id!r} has no gate {place!r}{close_names(place or '', _places(gates))}")


def answer_gate(store: Store, run_id: str, gate: Gate, answer: GateAnswer) -> GateAnswer:
    """Record an answer for good, and return it. Raises GateError if another one was first."""
    first = recorded(store, run_id, gate, answer)
    if first != answer:
        raise GateError(f"{gate.place!r} of run {run_id!r} is {first} already", winner=first)
    return first


def recorded(store: Store, run_id: str, gate: Gate, answer: GateAnswer) -> GateAnswer:
    """Record an answer unless there is one, and return the one that was first."""
    store.put(Decision(run_id, gate.stage, gate.item, gate.answer_name, answer.model_dump(mode="json")))
    store.flush()
    for one in store.decisions(run_id):
        if (one.stage, one.item, one.name) == (gate.stage, gate.item, gate.answer_name):
            return GateAnswer.model_validate(one.value)
    raise UsageError(f"there is no run {run_id!r} any more")


def answer_of(
    gate: Gate, *, yes: bool, text: str | None = None, data: Any = None, by: str, via: Via, now: float | None = None
) -> GateAnswer:
    """Return an answer in the form that a gate asks for. Raises GateError for one that does not fit.

    `text` replaces the shown one; with a no it is the reason.
    """
    at = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    text = None if text is None else whole_text(text)
    verdict, given = _checked(gate, yes=yes, text=text, data=whole_data(data))
    if len(text or "") + (0 if given is None else len(as_text(given))) > max(_MOST, 2 * len(gate.text)):
        raise GateError(f"the answer is too long: {gate.place!r} takes {max(_MOST, 2 * len(gate.text)):,} characters")
    return GateAnswer(answer=verdict, text=text, data=given, by=by.strip() or "unknown", at=at, via=via)


def _checked(gate: Gate, *, yes: bool, text: str | None, data: Any) -> tuple[Verdict, Any]:
    """Return the verdict and the data of an answer."""
    if not yes:
        if data is not None:
            raise GateError("a no takes no data; its reason is a text")
        return "rejected", None
    if gate.ask == "data":
        return "answered", _matching(gate, text, data)
    if data is not None and not (gate.ask == "edit" and gate.is_data):
        raise GateError(f"{gate.place!r} takes no data: it asks to {gate.ask} a text")
    if gate.ask == "approve" and text is not None:
        raise GateError(f"{gate.place!r} takes no other text: it asks for yes or no")
    if text is None and data is None:
        return "approved", None
    return "edited", (data if data is not None else _parsed(text or "")) if gate.is_data else None


def _matching(gate: Gate, text: str | None, data: Any) -> Any:
    if text is not None:
        raise GateError(f"{gate.place!r} asks for data that match its schema, not for a text")
    if data is None:
        raise GateError(f"{gate.place!r} asks for data that match its schema: {as_text(gate.json_schema)}")
    flaws = validate(data, gate.json_schema or {})
    if flaws:
        raise GateError(f"the data do not match the schema of {gate.place!r}: {'; '.join(flaws[:_SHOWN_FLAWS])}")
    return data


def _parsed(text: str) -> Any:
    try:
        return loaded(text)
    except (ValueError, RecursionError) as error:
        raise GateError(f"the edited text is not JSON, as the shown one is: {error}") from error


def _places(gates: Iterable[AnsweredGate]) -> Iterator[str]:
    return (one.gate.place for one in gates)
