"""Gates that `fusion approve` answers: one of a run, all of it, and those of the waiting rows of a map."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from fusion.cli.exits import OK, WAITING
from fusion.cli.options.runs import ApproveOptions
from fusion.cli.run_session.gates import Terminal, person_is_there
from fusion.cli.run_session.given import GivenAnswer, given_answer
from fusion.cli.terminal import complain, one_line, printable
from fusion.cli.views.history.gates import open_line, shown_text
from fusion.client.client import Fusion
from fusion.client.gates import is_awaited
from fusion.core.errors import GateError, UsageError
from fusion.core.types import Gate, GateAnswer
from fusion.store.gates import answer_gate, chosen_gate, open_gates
from fusion.store.lookup import find_run
from fusion.store.rows import RunState

_STATUS: Final[tuple[RunState, ...]] = ("waiting",)
_MOST: Final = 20
"""Gates that a refusal lists."""


class OpenGate(NamedTuple):
    """An open gate of a run, which may be the row `key` of a map."""

    run_id: str
    gate: Gate
    key: str | None = None

    @property
    def name(self) -> str:
        """The place of the gate, with the row."""
        return self.gate.place if self.key is None else f"row {one_line(self.key)}: {self.gate.place}"


def approved(fusion: Fusion, run_id: str, options: ApproveOptions) -> int | None:
    """Record the answer of a command, or ask at the terminal; return the exit code unless the run goes on here."""
    given = given_answer(options)
    if options.all_gates:
        _answer_all(fusion, run_id, given, options.gate)
        return _left_alone(fusion, run_id, options)
    gate = chosen_gate(fusion.store, run_id, options.gate)
    answer = _asked(gate, run_id, options) if given is None else given.to(gate)
    if answer is None:
        complain(f"fusion: {gate.place!r} stays open")
        return WAITING
    first = answer_gate(fusion.store, run_id, gate, answer)
    complain(f"{gate.place}: {first.answer} by {first.by}")
    return _left_alone(fusion, run_id, options)


def _left_alone(fusion: Fusion, run_id: str, options: ApproveOptions) -> int | None:
    """Return the exit code of a command after its answer, unless the run goes on here; say where it goes on."""
    row = find_run(fusion.store, run_id)
    if not options.go_on:
        return OK
    if row.map is not None:
        complain(f"the next pass of its map goes on with it: `fusion map` with `--id {row.map}`")
        return OK
    if is_awaited(fusion.store, run_id):
        complain("the process that waits for the answer goes on")
        return OK
    return None


def _asked(gate: Gate, run_id: str, options: ApproveOptions) -> GateAnswer | None:
    if not person_is_there():
        complain(shown_text(gate))
        raise UsageError(f"run {run_id!r} waits for an answer to {gate.place!r}: give --yes, --no, --text or --data")
    return Terminal(options.by).ask(gate)


def _answer_all(fusion: Fusion, run_id: str, given: GivenAnswer | None, place: str | None) -> None:
    if given is None:
        raise UsageError("--all gives one answer to every gate: add --yes, --no, --text, --data or --file")
    gates = [OpenGate(run_id, gate) for gate in open_gates(fusion.store, run_id) if _is_meant(gate, place)]
    if not gates:
        raise UsageError(f"run {run_id!r} waits at {_no(place)}")
    _record(fusion, gates, given)


def approved_map(fusion: Fusion, map_id: str, options: ApproveOptions) -> int:
    """Answer the open gates of the rows of a map, all alike or one by one; return the exit code."""
    gates, given = list(_open(fusion, map_id, options.gate)), given_answer(options)
    if not gates:
        raise UsageError(f"map {map_id!r} waits at {_no(options.gate)}")
    if given is not None and options.all_gates:
        answered = _record(fusion, gates, given)
    elif given is None and not options.all_gates and person_is_there():
        answered = _ask(fusion, gates, options)
    else:
        raise UsageError("\n".join(_listed(map_id, gates)))
    left = len(list(_open(fusion, map_id, None)))
    complain(f"{_count(answered)} answered, {left:,} open; `fusion map` with `--id {map_id}` goes on with the rows")
    return WAITING if left else OK


def _open(fusion: Fusion, map_id: str, place: str | None) -> Iterator[OpenGate]:
    """Yield the open gates of the rows of a map, those of the first rows first."""
    rows = sorted(fusion.runs.rows(map_id, status=_STATUS), key=lambda row: row.number)
    for row in rows:
        for gate in open_gates(fusion.store, row.run_id):
            if _is_meant(gate, place):
                yield OpenGate(row.run_id, gate, row.key)


def _is_meant(gate: Gate, place: str | None) -> bool:
    return place is None or place in (gate.place, gate.stage)


def _record(fusion: Fusion, gates: Sequence[OpenGate], given: GivenAnswer) -> int:
    """Record one answer for all gates, or for none if it does not fit one; return the number of those answered."""
    return sum(_is_first(fusion, one, answer) for one, answer in [(one, _fitting(one, given)) for one in gates])


def _fitting(one: OpenGate, given: GivenAnswer) -> GateAnswer:
    try:
        return given.to(one.gate)
    except GateError as error:
        raise GateError(f"{one.name}: {error}; nothing was answered") from error


def _is_first(fusion: Fusion, one: OpenGate, answer: GateAnswer) -> bool:
    """Record an answer; return False, and say so, if another one was first."""
    try:
        first = answer_gate(fusion.store, one.run_id, one.gate, answer)
    except GateError as error:
        complain(f"fusion: {error}")
        return False
    complain(f"{one.name}: {first.answer} by {first.by}")
    return True


def _ask(fusion: Fusion, gates: Sequence[OpenGate], options: ApproveOptions) -> int:
    """Ask the person at the terminal about one gate after the other; return the number of the answered ones."""
    terminal, answered = Terminal(options.by), 0
    for number, one in enumerate(gates, start=1):
        complain(printable(f"\n{number:,} of {len(gates):,}, row {one_line(one.key or '')} ({one.run_id})"))
        answer = terminal.ask(one.gate)
        answered += answer is not None and _is_first(fusion, one, answer)
        if terminal.is_left:
            break
    return answered


def _listed(map_id: str, gates: Sequence[OpenGate]) -> Iterator[str]:
    """Yield the words of a refusal that lists the open gates."""
    yield f"map {map_id!r} waits at {_count(len(gates))}:"
    for one in gates[:_MOST]:
        yield f"  {one.run_id}  row {one_line(one.key or '')}: {open_line(one.gate)}"
    if len(gates) > _MOST:
        yield f"  … and {len(gates) - _MOST:,} more: fusion runs list --map {map_id} --status waiting"
    yield (
        f"answer one with `fusion approve RUN`, or all alike with `fusion approve {map_id} --all` and "
        "--yes, --no, --text, --data or --file"
    )


def _no(place: str | None) -> str:
    return "no gate" if place is None else f"no gate {place!r}"


def _count(number: int) -> str:
    return f"{number:,} gate{'' if number == 1 else 's'}"
