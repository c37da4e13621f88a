"""Gates as text: what a run waits for, and who answered."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from fusion.cli.terminal import one_line
from fusion.cli.views.lines import seconds
from fusion.core.types import AnsweredGate, Gate, as_text

_DAY = 86400


def open_line(gate: Gate, *, now: datetime | None = None) -> str:
    """Describe an open gate: `approval (the office): Send this? until 2026-12-03 08:30 UTC (2 days), then reject`."""
    who = f" ({gate.who})" if gate.who else ""
    title = gate.title or {"approve": "approve?", "edit": "approve or edit?", "data": "fill in"}[gate.ask]
    return one_line(f"{gate.place}{who}: {title}{deadline_words(gate, now=now)}")


def deadline_words(gate: Gate, *, now: datetime | None = None) -> str:
    """Name the deadline of a gate, the time that is left, and its default; empty without one."""
    if gate.deadline is None:
        return ""
    left = (gate.deadline - (now or datetime.now(UTC))).total_seconds()
    when, then = f"{gate.deadline.astimezone(UTC):%Y-%m-%d %H:%M} UTC", as_text(gate.default)
    if left <= 0:
        return f" until {when}, which has passed: {then}"
    return f" until {when} ({left_words(left)}), then {then}"


def left_words(left: float) -> str:
    """Format the time that is left."""
    if left < 2 * _DAY:
        return f"{seconds(max(0.0, left))} left"
    return f"{left / _DAY:.1f} days left"


def waiting_lines(gates: Sequence[Gate], run_id: str, options: str = "") -> Iterator[str]:
    """Name the gates that a run waits at, and the commands that answer."""
    for gate in gates:
        yield f"  {open_line(gate)}"
    place = shlex.quote(gates[0].place) if len(gates) > 1 else ""
    yield f"to see and answer: fusion approve {run_id}{place and ' '}{place}{options}"
    yield f"to go on once it is answered: fusion resume {run_id}{options}"


def gate_lines(gates: Iterable[AnsweredGate]) -> Iterator[str]:
    """Describe the gates of a run, with their answers."""
    for one in gates:
        gate, answer = one.gate, one.answer
        if answer is None:
            yield f"waits at {open_line(gate)}"
            continue
        said = f": {one_line(answer.text)}" if answer.text is not None else ""
        said = f": {one_line(as_text(answer.data))}" if answer.data is not None else said
        yield f"gate {gate.place}: {answer} ({answer.via}){said}"


def shown_text(gate: Gate) -> str:
    """Return the text of a gate between rules, under its title."""
    who = f" ({gate.who})" if gate.who else ""
    head = f"{gate.place}{who}{f': {gate.title}' if gate.title else ''}{deadline_words(gate)}"
    return f"{head}\n---\n{gate.text.rstrip()}\n---"


def properties_of(schema: dict[str, Any] | None) -> dict[str, dict[str, Any]] | None:
    """Return the properties of a plain object by name, to be asked one by one; None for another schema."""
    if schema is None or schema.get("type") != "object" or not schema.get("properties"):
        return None
    return dict(schema["properties"])


def type_words(schema: dict[str, Any]) -> str:
    """Describe the values of a property: `integer`, `yes or later`, `JSON`."""
    if "enum" in schema:
        return " or ".join(as_text(one) for one in schema["enum"])
    kinds = schema.get("type")
    if isinstance(kinds, list):
        kinds = " or ".join("nothing" if kind == "null" else kind for kind in kinds)
    return {"string": "text", "boolean": "true or false", "array": "a list in JSON", "object": "JSON"}.get(
        str(kinds), str(kinds or "JSON")
    )
