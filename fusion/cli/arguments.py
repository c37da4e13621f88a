"""Arguments: parse inputs, roles, tags, statuses, ages and limits of the command line."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from fusion.cli.terminal import complain, is_terminal
from fusion.core.errors import InputError, UsageError, close_names
from fusion.core.paths import user_path
from fusion.core.types import FileText

if TYPE_CHECKING:
    from fusion.pipeline.spec import Pipeline
    from fusion.prompts.library import Library
    from fusion.store.rows import RunState


_LIMITS = ("usd", "tokens", "calls", "seconds")
_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}
_PATIENCE = 2.0
_MOST = 100_000_000
"""Largest input in bytes: more than any model reads, and less than fills the memory."""


class Stdin:
    """Standard input, readable by one input only."""

    def __init__(self) -> None:
        self._taken_by: str | None = None

    @property
    def waiting(self) -> bool:
        """True if standard input is unread and not a terminal."""
        return self._taken_by is None and sys.stdin is not None and not is_terminal(sys.stdin)

    def take(self, name: str) -> None:
        """Reserve standard input for another reader."""
        self._taken_by = name

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


def library() -> "Library":
    """Open the library of shipped pipelines and the user's own."""
    from fusion.core.config import user_folder
    from fusion.prompts.library import Library

    return Library.standard(user=user_folder())


def inputs_of(
    words: Sequence[str] | None, stdin: Stdin, pipeline: "Pipeline", *, option: str = "-i"
) -> dict[str, Any]:
    """Parse `name=value`, `name=@file`, `name=-` (standard input) and `name=@@text` (text that begins with an @).

    For an input of a picture or document, a file gives its path, and standard input gives bytes.
    """
    inputs: dict[str, Any] = {}
    for name, value in pairs_of(option, words, "name=value, name=@file, or name=- for standard input"):
        spec = pipeline.inputs.get(name)
        of_bytes = spec is not None and spec.is_file
        inputs[name] = _bytes_input(option, name, value, stdin) if of_bytes else _input(option, name, value, stdin)
    return inputs


def from_stdin(pipeline: "Pipeline", given: Mapping[str, Any], stdin: Stdin) -> dict[str, Any]:
    """Read the input marked `stdin: true` from standard input, unless it is given or nothing is piped in."""
    for name, spec in pipeline.inputs.items():
        if spec.stdin and name not in given and stdin.waiting:
            came = (stdin.read_bytes if spec.is_file else stdin.read)(f"input {name!r}")
            return {name: came} if came else {}
    return {}


def results_of(words: Sequence[str] | None, stdin: Stdin) -> dict[str, Any]:
    """Parse `stage=value` or `stage.field=value`; the values are given as inputs are, lists and objects as JSON."""
    pairs = pairs_of("--with", words, "stage=@file, stage.field=@file or stage.field=value")
    return {path: _data(path, _input("--with", path, value, stdin)) for path, value in pairs}


def _data(path: str, text: str) -> Any:
    import json

    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--with {path}: it begins like JSON and cannot be read as JSON: {error}") from error


def roles_of(words: Sequence[str] | None) -> dict[str, str]:
    """Parse `role=model`."""
    return dict(pairs_of("--role", words, "role=model, such as bulk=openai/gpt-5-mini", value_needed=True))


def tags_of(words: Sequence[str] | None) -> dict[str, str]:
    """Parse `key=value`."""
    return dict(pairs_of("--tag", words, "key=value, such as team=search"))


def pairs_of(
    option: str, words: Sequence[str] | None, form: str, *, value_needed: bool = False
) -> Iterator[tuple[str, str]]:
    """Split words at their first =. Raises UsageError for another form and for a name given twice."""
    seen: set[str] = set()
    for word in words or ():
        name, sign, value = word.partition("=")
        if not (sign and name and (value or not value_needed)):
            raise UsageError(f"{option} {word!r}: give it as {form}")
        if name in seen:
            raise UsageError(f"{option} {name}=… is given twice")
        seen.add(name)
        yield name, value


def states_of(words: Sequence[str] | None) -> "tuple[RunState, ...]":
    """Parse statuses of runs. Raises UsageError for an unknown one."""
    from fusion.store.rows import RunState

    states: tuple[RunState, ...] = get_args(RunState)
    for word in words or ():
        if word not in states:
            raise UsageError(f"--status {word!r}: no such status{close_names(word, states)}")
    return tuple(state for state in states if state in (words or ()))


def days_of(word: str) -> float:
    """Parse an age such as `30d`, `12h` or `2w` into days."""
    number, unit = word[:-1], word[-1:]
    try:
        days = float(number) * _DAYS[unit]
    except (KeyError, ValueError):
        days = -1.0
    if not 0 <= days < 1e6:
        raise UsageError(f"--older-than {word!r}: give a number of hours, days or weeks, such as 12h, 30d or 8w")
    return days


def limits_of(word: str | None) -> dict[str, str] | None:
    """Parse `0.50` (dollars) or `usd=0.5,tokens=…,calls=…,seconds=…`."""
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


def _bytes_input(option: str, name: str, value: str, stdin: Stdin) -> Any:
    if value in ("-", "@-"):
        return stdin.read_bytes(f"{option} {name}")
    _check_no_file(option, name, value)
    return user_path(value[1:]) if value.startswith("@") else value


def _input(option: str, name: str, value: str, stdin: Stdin) -> str:
    if value in ("-", "@-"):
        return stdin.read(f"{option} {name}")
    if value.startswith("@@"):
        return value[1:]
    if value.startswith("@"):
        return _file(f"{option} {name}", value[1:])
    _check_no_file(option, name, value)
    return value


def _check_no_file(option: str, name: str, value: str) -> None:
    """Refuse the bare name of a file: its content is meant. Raises InputError."""
    if not value.startswith("@") and names_file(value):
        given = shlex.quote(f"{name}=@{value}")
        raise InputError(
            f"{option} {name}={value}: {value!r} is a file; {option} {given} gives its content "
            f"({name}=- reads the words {value!r} themselves from standard input)"
        )


def text_of(option: str, file: str) -> str:
    """Return the text of a file, or of standard input for `-`. Raises InputError."""
    return Stdin().read(option) if file == "-" else _file(option, file)


def names_file(words: str) -> bool:
    """Return True if a file of this name exists."""
    try:
        return user_path(words).is_file()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


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
        raise InputError(f"{where} has more than {_MOST / 1e6:,.0f} MB; give a shorter one")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text (byte {error.start}); an input has to be text") from error
    if "\0" in text:
        raise InputError(f"{where} is a binary file; an input has to be text")
    return text


def _say_if_it_takes_long(name: str) -> None:
    """Name the input that is read, if none arrives: a silent pipe looks like a hang."""
    import select

    try:
        ready, _, _ = select.select([sys.stdin], [], [], 0 if is_terminal(sys.stdin) else _PATIENCE)
    except (OSError, ValueError):
        return
    if not ready:
        complain(f"fusion: reading {name} from standard input, until its end (Ctrl-D)")
