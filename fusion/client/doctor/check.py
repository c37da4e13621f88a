"""Check: one finding of the doctor."""

from collections.abc import Callable, Iterable
from typing import Literal

from fusion.core.errors import FusionError
from fusion.core.types import Value

State = Literal["ok", "warning", "problem"]


class Check(Value):
    """One finding: its subject, state and words; `advice` names what to do about a warning or a problem."""

    name: str
    state: State
    words: str
    advice: str = ""


def ok(name: str, words: str) -> Check:
    return Check(name=name, state="ok", words=words)


def warning(name: str, words: str, advice: str) -> Check:
    return Check(name=name, state="warning", words=words, advice=advice)


def problem(name: str, words: str, advice: str) -> Check:
    return Check(name=name, state="problem", words=words, advice=advice)


def guarded(name: str, checks: Callable[[], Iterable[Check]]) -> list[Check]:
    """Return the findings; an error becomes a problem."""
    try:
        return list(checks())
    except FusionError as error:
        return [problem(name, str(error).replace("\n", "; "), "correct it, then run `fusion doctor` again")]
    except OSError as error:
        return [problem(name, f"{error.strerror}: {error.filename}", "allow access to it")]
