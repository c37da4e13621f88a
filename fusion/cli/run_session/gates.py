"""Gates of a run at the command line: a person at the terminal answers, or the process waits for an answer."""

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from fusion.cli.run_session.given import from_json
from fusion.cli.terminal import complain, is_live, is_terminal, printable
from fusion.cli.views.history.gates import deadline_words, open_line, properties_of, shown_text, type_words
from fusion.client.client import Fusion
from fusion.client.gates import awaited, user
from fusion.core.errors import GateError
from fusion.core.result import Result
from fusion.core.types import Gate, GateAnswer
from fusion.store.gates import answer_of, goes_on, recorded

POLL: Final = 1.0
"""Seconds between two looks at the store while the process waits."""
_HELD: Final = threading.Lock()


def person_is_there() -> bool:
    """Return True if a person can be asked: standard input and standard error are a terminal."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


class Terminal:
    """Asks the person at the terminal, one gate at a time. `by` is the name in the record.

    `is_left` is True once the input has ended.
    """

    def __init__(self, by: str | None = None, *, hold: Callable[[], None] = lambda: None) -> None:
        self.is_left = False
        self._by = by or user()
        self._hold = hold

    def ask(self, gate: Gate) -> GateAnswer | None:
        """Return the answer of the person; None for later, or the end of input."""
        with _HELD:
            self._hold()
            complain(f"\n{printable(shown_text(gate))}")
            while True:
                try:
                    return self._asked(gate)
                except EOFError:
                    complain("")
                    self.is_left = True
                    return None
                except GateError as error:
                    complain(f"fusion: {error}")

    def _asked(self, gate: Gate) -> GateAnswer | None:
        if gate.ask == "data":
            word = _choice("[f]ill in, [n]o, [l]ater? ", "fnl")
            return self._answer(gate, data=_data(gate)) if word == "f" else self._otherwise(gate, word)
        if gate.ask == "edit":
            word = _choice("approve: [y]es, [e]dit in an editor, [w]rite a line, [n]o, [l]ater? ", "yewnl")
            if word in ("e", "w"):
                text = _edited(gate.text) if word == "e" else _line("text: ")
                return self._answer(gate) if text is None else self._answer(gate, text=text)
        else:
            word = _choice("approve: [y]es, [n]o, [l]ater? ", "ynl")
        return self._answer(gate) if word == "y" else self._otherwise(gate, word)

    def _otherwise(self, gate: Gate, word: str) -> GateAnswer | None:
        if word == "l":
            return None
        reason = _line("reason (may be empty): ").strip()
        return self._answer(gate, yes=False, text=reason or None)

    def _answer(self, gate: Gate, *, yes: bool = True, text: str | None = None, data: Any = None) -> GateAnswer:
        return answer_of(gate, yes=yes, text=text, data=data, by=self._by, via="terminal")


def answered_here(fusion: Fusion, result: Result, terminal: Terminal) -> bool:
    """Ask at the terminal about the gates of a run that waits; return True if it can go on."""
    for gate in result.waiting:
        if goes_on(fusion.store, [gate], result.run_id):
            continue
        answer = terminal.ask(gate)
        if answer is None:
            continue
        first = recorded(fusion.store, result.run_id, gate, answer)
        if first != answer:
            complain(f"fusion: {gate.place!r} is {first} already")
    return goes_on(fusion.store, result.waiting, result.run_id)


def answered_elsewhere(fusion: Fusion, result: Result, *, quiet: bool) -> None:
    """Wait until a gate of a run is answered elsewhere, or its deadline has passed. It may be interrupted."""
    news = threading.Event()
    with awaited(fusion.store, result.run_id), ExitStack() as following:
        if (follower := fusion.store.follow(result.run_id, news.set)) is not None:
            following.callback(follower.close)
        shown = Remaining(result, quiet=quiet)
        while not goes_on(fusion.store, result.waiting, result.run_id):
            shown.tick()
            news.wait(POLL)
            news.clear()
        shown.end()


class Remaining:
    """Shows the time that is left: one line that changes on a terminal, else the gates once."""

    def __init__(self, result: Result, *, quiet: bool) -> None:
        self._gates = result.waiting
        self._live = is_live(sys.stderr) and not quiet
        if not quiet:
            complain(f"fusion: waiting for an answer: fusion approve {result.run_id}")
            for gate in result.waiting:
                complain(f"  {open_line(gate)}")

    def tick(self) -> None:
        """Show the time that is left until the first deadline."""
        if not self._live:
            return
        due = min((gate for gate in self._gates if gate.deadline is not None), key=_deadline, default=None)
        words = "waits" if due is None else f"waits{deadline_words(due)}"
        sys.stderr.write(f"\r\x1b[2K{printable(words)}")
        sys.stderr.flush()

    def end(self) -> None:
        """Remove the line."""
        if self._live:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


def _deadline(gate: Gate) -> float:
    return float("inf") if gate.deadline is None else gate.deadline.timestamp()


def _line(prompt: str) -> str:
    sys.stderr.write(prompt)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _choice(prompt: str, letters: str) -> str:
    """Return the letter of a choice; ask again for another answer."""
    while True:
        said = _line(prompt).strip().lower()
        if said[:1] and said[:1] in letters:
            return said[:1]
        complain(f"answer with one of {', '.join(letters)}")


def _edited(text: str) -> str | None:
    """Return the text from the user's editor; None if it was not saved."""
    import click

    try:
        return click.edit(text, extension=".md")
    except click.ClickException as error:
        complain(f"fusion: {error.message}; set EDITOR, or write a line")
        return _line("text: ")


def _data(gate: Gate) -> Any:
    """Return data that the person fills in: the properties of an object one by one, else JSON."""
    properties = properties_of(gate.json_schema)
    if properties is None:
        return from_json(_line("JSON: "))
    data: dict[str, Any] = {}
    required = set((gate.json_schema or {}).get("required", ()))
    for name, schema in properties.items():
        said = _line(f"{name} ({type_words(schema)}): ")
        if said or name in required:
            data[name] = _value(said, schema)
    return data


def _value(said: str, schema: dict[str, Any]) -> Any:
    """Return a value as the person wrote it: text as it is, other types in JSON."""
    kinds = schema.get("type", "string" if all(isinstance(one, str) for one in schema.get("enum", [None])) else None)
    if kinds == "string" or (isinstance(kinds, list) and "string" in kinds and said):
        return said
    return from_json(said) if said else None
