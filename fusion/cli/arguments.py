"""From the words of a command line to what the client takes: inputs, roles, limits."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from fusion.cli.terminal import complain, is_terminal
from fusion.core.errors import InputError, UsageError, close_names
from fusion.core.paths import user_path
from fusion.core.types import FileText

if TYPE_CHECKING:
    from fusion.pipeline.spec import Pipeline
    from fusion.store.rows import RunState


_LIMITS = ("usd", "tokens", "calls", "seconds")
_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}
_PATIENCE = 2.0
_MOST = 100_000_000
"""Bytes of one input: more than any model reads, and less than would fill a machine."""


class Stdin:
    """Standard input, which can be read for one input only."""

    def __init__(self) -> None:
        self._taken_by: str | None = None

    @property
    def waiting(self) -> bool:
        """True where something may be read that nobody has taken yet and nobody would have to type."""
        return self._taken_by is None and sys.stdin is not None and not is_terminal(sys.stdin)

    def read(self, name: str) -> str:
        return FileText(_text(self.read_bytes(name), "standard input"), "standard input")

    def read_bytes(self, name: str) -> bytes:
        if self._taken_by is not None:
            raise UsageError(f"{self._taken_by} and {name} both read standard input; only one can")
        self._taken_by = name
        if sys.stdin is None:
            raise InputError(f"{name} reads standard input, which is closed")
        _say_if_it_takes_long(name)
        try:
            return sys.stdin.buffer.read(_MOST + 1)
        except OSError as error:
            raise InputError(f"{name} cannot read standard input: {error.strerror}") from error


def inputs_of(words: Sequence[str], stdin: Stdin, pipeline: "Pipeline") -> dict[str, Any]:
    """`name=value`, `name=@file`, `name=-` (standard input); `name=@@text` is text that begins with an @.

    Of an input that is a picture or a document, a file is given as its path, and standard input as bytes.
    """
    inputs: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise UsageError(f"-i {word!r}: give it as name=value, name=@file, or name=- for standard input")
        if name in inputs:
            raise UsageError(f"-i {name}=… is given twice")
        spec = pipeline.inputs.get(name)
        of_bytes = spec is not None and spec.is_file
        inputs[name] = _bytes_input(name, value, stdin) if of_bytes else _input("-i", name, value, stdin)
    return inputs


def from_stdin(pipeline: "Pipeline", given: Mapping[str, Any], stdin: Stdin) -> dict[str, Any]:
    """What standard input says for the input that is marked `stdin: true`, if it is not given and something comes."""
    for name, spec in pipeline.inputs.items():
        if spec.stdin and name not in given and stdin.waiting:
            came = (stdin.read_bytes if spec.is_file else stdin.read)(f"input {name!r}")
            return {name: came} if came else {}
    return {}


def results_of(words: Sequence[str], stdin: Stdin) -> dict[str, Any]:
    """`stage=value` or `stage.field=value`, given as inputs are; what is a JSON list or object is read as one."""
    results: dict[str, Any] = {}
    for word in words:
        path, sign, value = word.partition("=")
        if not sign or not path:
            raise UsageError(f"--with {word!r}: give it as stage=@file, stage.field=@file or stage.field=value")
        if path in results:
            raise UsageError(f"--with {path}=… is given twice")
        results[path] = _data(path, _input("--with", path, value, stdin))
    return results


def _data(path: str, text: str) -> Any:
    import json

    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--with {path}: it begins like JSON and cannot be read as JSON: {error}") from error


def roles_of(words: Sequence[str]) -> dict[str, str]:
    """`role=model`, each role once."""
    roles: dict[str, str] = {}
    for word in words:
        role, sign, model = word.partition("=")
        if not (sign and role and model):
            raise UsageError(f"--role {word!r}: give it as role=model, such as bulk=openai/gpt-5-mini")
        if role in roles:
            raise UsageError(f"--role {role}=… is given twice")
        roles[role] = model
    return roles


def tags_of(words: Sequence[str]) -> dict[str, str]:
    """`key=value`, each key once."""
    tags: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not (sign and key):
            raise UsageError(f"--tag {word!r}: give it as key=value, such as team=search")
        if key in tags:
            raise UsageError(f"--tag {key}=… is given twice")
        tags[key] = value
    return tags


def states_of(words: Sequence[str]) -> "tuple[RunState, ...]":
    """How runs may stand. Raises UsageError for a word that is none of that."""
    from fusion.store.rows import RunState

    states: tuple[RunState, ...] = get_args(RunState)
    for word in words:
        if word not in states:
            raise UsageError(f"--status {word!r}: no such status{close_names(word, states)}")
    return tuple(state for state in states if state in words)


def days_of(word: str) -> float:
    """`30d`, `12h` or `2w` as days."""
    number, unit = word[:-1], word[-1:]
    try:
        days = float(number) * _DAYS[unit]
    except (KeyError, ValueError):
        days = -1.0
    if not 0 <= days < 1e6:
        raise UsageError(f"--older-than {word!r}: give a number of hours, days or weeks, such as 12h, 30d or 8w")
    return days


def limits_of(word: str | None) -> dict[str, str] | None:
    """`0.50` (dollars), or `usd=0.5,tokens=…,calls=…,seconds=…`."""
    if word is None:
        return None
    if "=" not in word:
        return {"usd": word.strip().removeprefix("$")}
    limits: dict[str, str] = {}
    for part in word.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in _LIMITS:
            raise UsageError(f"--budget {word!r}: no limit {name!r}{close_names(name, _LIMITS)}")
        if name in limits:
            raise UsageError(f"--budget {word!r}: {name} is given twice")
        limits[name] = value.removeprefix("$")
    return limits


def _bytes_input(name: str, value: str, stdin: Stdin) -> Any:
    if value in ("-", "@-"):
        return stdin.read_bytes(f"-i {name}")
    return user_path(value[1:]) if value.startswith("@") else value


def _input(option: str, name: str, value: str, stdin: Stdin) -> str:
    if value in ("-", "@-"):
        return stdin.read(f"{option} {name}")
    if value.startswith("@@"):
        return value[1:]
    if value.startswith("@"):
        return _file(f"{option} {name}", value[1:])
    return value


def _file(name: str, given: str) -> str:
    path = user_path(given)
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST + 1)
    except OSError as error:
        hint = f"; `{name}=@@…` gives a text that begins with an @" if isinstance(error, FileNotFoundError) else ""
        raise InputError(f"{name}: cannot read {given!r}: {error.strerror}{hint}") from error
    return FileText(_text(raw, repr(given)), given)


def _text(raw: bytes, where: str) -> str:
    if len(raw) > _MOST:
        raise InputError(f"{where} has more than {_MOST / 1e6:,.0f} MB; give the part that is to be read")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text (byte {error.start}); an input has to be text") from error
    if "\0" in text:
        raise InputError(f"{where} is a binary file; an input has to be text")
    return text


def _say_if_it_takes_long(name: str) -> None:
    """An open pipe into which nobody writes looks like a hang: say what is waited for."""
    import select

    try:
        ready, _, _ = select.select([sys.stdin], [], [], 0 if is_terminal(sys.stdin) else _PATIENCE)
    except (OSError, ValueError):
        return
    if not ready:
        complain(f"fusion: reading {name} from standard input, until its end (Ctrl-D)")
