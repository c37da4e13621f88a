"""Trust: the fusion.toml of a project counts in full once the user has trusted it, by path and digest."""

import hashlib
import json
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusion.core.config.tables import SettingsFile, bound_tables
from fusion.core.errors import UsageError

NAME: Final = "fusion.toml"
_VERSION: Final = 1
_Answers = dict[str, dict[str, Any]]


class Untrusted(NamedTuple):
    """The tables of a project's file that do not count; `asked` is True if the user has refused them before."""

    path: Path
    tables: tuple[str, ...]
    digest: str
    asked: bool
    content: SettingsFile

    @property
    def notice(self) -> str:
        """One line that names the file, the ignored tables and the command that trusts them."""
        tables = [f"[{name}]" for name in self.tables]
        named = " and ".join([", ".join(tables[:-1]), tables[-1]]) if len(tables) > 1 else tables[0]
        are = "are" if len(tables) > 1 else "is"
        return f"{shown(self.path)}: {named} {are} ignored until you trust it: fusion trust {quoted(self.path)}"


def project_files(start: Path) -> Iterator[Path]:
    """Yield every fusion.toml from `start` upwards, to the home folder if it is above."""
    home = _home()
    start = start.resolve()
    for folder in (start, *start.parents):
        path = folder / NAME
        with suppress(OSError):
            if path.is_file():
                yield path
        if folder == home:
            return


def unfit(path: Path) -> str | None:
    """Return the reason why a project's file never counts; None if it may."""
    try:
        link, file = path.lstat(), path.stat()
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if not hasattr(os, "geteuid"):  # Windows has no such owners
        return None
    if {link.st_uid, file.st_uid} != {os.geteuid()}:
        return "it belongs to another user"
    return "every user can write to it" if file.st_mode & stat.S_IWOTH else None


def unfit_notice(path: Path, reason: str) -> str:
    """Return the line that names a file that never counts, and the option that takes it."""
    return f"{shown(path)} is ignored: {reason}; --config {quoted(path)} takes it all the same"


def digest_of(data: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the tables that need trust."""
    text = json.dumps(bound_tables(data), sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Trust:
    """The ledger of answers to the question if a file is trusted, in the user's state folder."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or _ledger_path()

    def answer(self, path: Path, digest: str) -> bool | None:
        """Return the user's answer for a file with these tables; None if not yet given."""
        entry = self._read().get(str(path), {})
        return bool(entry.get("trusted")) if entry.get("digest") == digest else None

    def record(self, path: Path, digest: str, *, trusted: bool) -> None:
        """Keep the user's answer. Raises UsageError if it cannot be written."""
        self._write({**self._read(), str(path): {"digest": digest, "trusted": trusted}})

    def revoke(self, path: Path) -> bool:
        """Forget a file; return False if the ledger has no entry for it."""
        entries = self._read()
        found = entries.pop(str(path), None) is not None
        if found:
            self._write(entries)
        return found

    def answers(self) -> dict[Path, tuple[str, bool]]:
        """Return the digest and answer for each file."""
        return {
            Path(path): (str(entry.get("digest")), bool(entry.get("trusted")))
            for path, entry in sorted(self._read().items())
        }

    def _read(self) -> _Answers:
        try:
            data = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        files = data.get("files") if isinstance(data, dict) and data.get("version") == _VERSION else None
        entries = files.items() if isinstance(files, dict) else ()
        return {path: entry for path, entry in entries if isinstance(entry, dict)}

    def _write(self, entries: _Answers) -> None:
        folder = self._path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, delete=False) as file:
                json.dump({"version": _VERSION, "files": entries}, file, indent=1)
            Path(file.name).replace(self._path)
        except OSError as error:
            raise UsageError(f"cannot write {str(self._path)!r}: {error.strerror}") from error


def shown(path: Path) -> str:
    """Return a path on one line."""
    return str(path) if str(path).isprintable() else repr(str(path))


def quoted(path: Path) -> str:
    """Return a path quoted for a shell, on one line."""
    return shlex.quote(str(path)) if str(path).isprintable() else repr(str(path))


def _home() -> Path | None:
    try:
        return Path.home().resolve()
    except (RuntimeError, OSError):
        return None


def _ledger_path() -> Path:
    import platformdirs

    return platformdirs.user_state_path("fusion", appauthor=False) / "trust.json"
