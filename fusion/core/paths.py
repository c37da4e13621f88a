"""Paths: the user's own folders, and files read with a bound on their size."""

from pathlib import Path

from fusion.core.errors import UsageError

MAX_FILE_BYTES = 1_000_000


def user_path(given: str) -> Path:
    """A path as the user gives it, `~` being their home; one of a user that does not exist stays as it is."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        return Path(given)


def working_directory() -> Path | None:
    """The working directory; None where it was removed meanwhile."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def read_text(path: Path, *, most: int = MAX_FILE_BYTES) -> str:
    """A text file of the user's, as UTF-8. Raises UsageError that says what is wrong with it."""
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if len(raw) > most:
        raise UsageError(f"{str(path)!r} is larger than {most:,} bytes: that is no pipeline or template")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        raise UsageError(f"{str(path)!r} is a binary file, not text")
    return text
