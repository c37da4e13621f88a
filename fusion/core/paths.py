"""Paths given by the user, and text files read with a size limit."""

import os
import re
from datetime import UTC, date, datetime
from pathlib import Path

from fusion.core.errors import UsageError

MAX_FILE_BYTES = 1_000_000
_DATABASE = ("postgresql://", "postgres://")
_SECRET_WORD = re.compile(r"[^=]*(password|secret|client_key)", re.IGNORECASE)
"""Matches a parameter of a URL that holds a secret."""


def user_path(given: str) -> Path:
    """Return the path with `~` expanded; unchanged if it names the home of an unknown user."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        return Path(given)


def is_url(place: object) -> bool:
    """Return True for the URL of a PostgreSQL database, in place of a path."""
    return isinstance(place, str) and place.startswith(_DATABASE)


def store_place(given: str) -> "Path | str":
    """Return the place of a store: a URL as it is, a path with `~` expanded."""
    return given if is_url(given) else user_path(given)


def has_password(url: str) -> bool:
    """Return True if the URL of a database holds a password."""
    return shown_place(url) != url


def shown_place(place: str) -> str:
    """Return the place of a store, without the passwords of a URL."""
    if not is_url(place):
        return place
    scheme, _, rest = place.partition("://")
    rest, has_query, query = rest.partition("?")
    login, at, address = rest.rpartition("@")
    words = [one for one in query.split("&") if not _SECRET_WORD.match(one)]
    kept = f"?{'&'.join(words)}" if has_query and any(words) else ""
    return f"{scheme}://{login.partition(':')[0]}{at}{address}{kept}"


def working_directory() -> Path | None:
    """Return the working directory; None if it has been removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def day_of(path: Path) -> date | None:
    """Return the day of the last change of a file, in UTC; None if it does not exist."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    except OSError:
        return None


def foreign(path: Path) -> str | None:
    """Return the reason why writing to a path would change a file that the user did not name; None if it would not.

    A link may lead to the user's own file in the same folder only. Devices and pipes are written as they are.
    """
    if str(path).startswith(("/dev/", "/proc/")):
        return None
    try:
        if path.is_symlink():
            target = path.resolve()
            if target.parent != path.parent.resolve():
                return f"it is a link to {str(target)!r}; name that file itself"
            if not _is_own(path, follow=False):
                return "it is a link of another user"
        if path.is_file() and not _is_own(path):
            return "it belongs to another user"
    except (OSError, RuntimeError) as error:
        return f"it cannot be followed: {error}"
    return None


def _is_own(path: Path, *, follow: bool = True) -> bool:
    return not hasattr(os, "geteuid") or path.stat(follow_symlinks=follow).st_uid == os.geteuid()


def read_bytes(path: Path, *, most: int, what: str, then: str = "") -> bytes:
    """Return the bytes of a file, which is expected to be `what` and to have at most `most` of them.

    Raises UsageError if it cannot be read or is too large; `then` is the end of its message.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}{then}") from error
    if len(raw) > most:
        raise UsageError(f"{str(path)!r} is larger than {most:,} bytes: that is no {what}{then}")
    return raw


def read_text(path: Path, *, most: int = MAX_FILE_BYTES) -> str:
    """Return the text of a UTF-8 file of at most `most` bytes, without its byte-order mark.

    Raises UsageError if the file cannot be read, is too large, is not UTF-8 or holds a NUL character.
    """
    raw = read_bytes(path, most=most, what="pipeline or template")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        raise UsageError(f"{str(path)!r} is a binary file, not text")
    return text
