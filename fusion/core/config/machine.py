"""Machine: the policy file of this machine, which no option, variable or other file replaces."""

import os
import stat
from pathlib import Path
from typing import Final

from fusion.core.config.policy import PolicyTable, Rules
from fusion.core.config.reading import Marks, checked, parsed
from fusion.core.errors import UsageError
from fusion.core.validation import Authored

MACHINE_WIDE: Final = Path("C:/ProgramData/fusion/policy.toml" if os.name == "nt" else "/etc/fusion/policy.toml")
_REFUSED: Final = "no model is called without it; ask the owner of that file"


class _WithHead(Authored):
    """A policy file with the head `[policy]`, as in a fusion.toml."""

    policy: PolicyTable


def machine_rules() -> tuple[Rules, ...]:
    """Return the rules of this machine, if it has any.

    Raises UsageError for a file that cannot be read or trusted, with every mistake in it: it is never ignored.
    """
    path = MACHINE_WIDE
    try:
        link = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror})") from error
    _check_owner(path, link)
    try:
        text, data = parsed(path)
    except UsageError as error:
        raise UsageError(f"machine-wide policy: {error}; {_REFUSED}") from error
    if "policy" in data:
        content, marks = checked(path, _WithHead, text, data)
        return (rules_of(path, content.policy, marks, text, machine_wide=True),)
    table, marks = checked(path, PolicyTable, text, data)
    return (
        rules_of(path, table, {("policy", *place): mark for place, mark in marks.items()}, text, machine_wide=True),
    )


def rules_of(path: Path, table: PolicyTable, marks: Marks, text: str, *, machine_wide: bool = False) -> Rules:
    """Return a table of rules with the lines of its keys."""
    lines = {str(place[1]): line for place, (line, _) in marks.items() if len(place) == 2 and place[0] == "policy"}
    return Rules(path=path, table=table, lines=lines, text=text, machine_wide=machine_wide)


def _check_owner(path: Path, link: os.stat_result) -> None:
    """Raise UsageError for a file of another user, or one that every user can write to."""
    try:
        file = path.stat()
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(file.st_mode):
        raise _refused(path, "is no file")
    if not hasattr(os, "geteuid"):  # Windows has no such owners
        return
    if not {link.st_uid, file.st_uid} <= {0, os.geteuid()}:
        raise _refused(path, "belongs to another user than the administrator")
    if file.st_mode & stat.S_IWOTH:
        raise _refused(path, "can be written by every user")


def _refused(path: Path, why: str) -> UsageError:
    return UsageError(f"the machine-wide policy {str(path)!r} {why}; {_REFUSED}")
