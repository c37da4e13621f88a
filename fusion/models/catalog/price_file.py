"""Price file: the entries of a newer file that the user has fetched, else those of the installed litellm."""

import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusion.core.config import cache_folder
from fusion.core.log import LOG
from fusion.core.paths import day_of

Entry = Mapping[str, Any]

_FILE: Final = "model_prices_and_context_window_backup.json"
_EXAMPLE: Final = "sample_spec"
_OF_ENTRIES: Final = "litellm_provider"
_INDENT: Final = "\n    "
_DECODER: Final = json.JSONDecoder()
_BUILT: Final = re.compile(r'"timestamp"\s*:\s*"(\d{4}-\d\d-\d\d)T')
_HEAD: Final = 2000
_OLD: Final = 60
"""Days after which prices are called old."""


class Origin(NamedTuple):
    """The origin of prices: its name, the day of the file, and the meaning of that day."""

    name: str
    day: date | None
    meaning: str = "built"

    @property
    def label(self) -> str:
        """The origin with its day, without its age: `litellm 1.110.2, built 2026-11-20`."""
        return self.name if self.day is None else f"{self.name}, {self.meaning} {self.day}"

    @property
    def age(self) -> int | None:
        """Days since that day; None if it is unknown."""
        return None if self.day is None else (datetime.now(UTC).date() - self.day).days

    @property
    def is_old(self) -> bool:
        """True for a file that is older than two months, or of unknown age."""
        return self.age is None or self.age > _OLD

    @property
    def words(self) -> str:
        """The origin with its age, and the way to newer prices if it is old."""
        age = "age unknown" if self.age is None else f"{self.age} day{'s' * (self.age != 1)} old"
        return f"{self.label} ({age})" + ("; `fusion models update` fetches newer ones" if self.is_old else "")


class Fetched(NamedTuple):
    """A price file in the user's cache folder: its text and origin."""

    text: str
    origin: Origin


def price_folder() -> Path:
    """Return the folder of a fetched price file and of its record."""
    return cache_folder() / "prices"


def origin() -> Origin:
    """Return the origin of the prices in use."""
    fetched = _fetched()
    return _installed_origin() if fetched is None else fetched.origin


def label(name: str) -> str:
    """Return the origin of an entry, for the receipt."""
    fetched = _fetched()
    if fetched is not None and _decoded(fetched.text, name) is not None:
        return fetched.origin.label
    return _installed_origin().label


@functools.lru_cache(maxsize=1024)
def entry(name: str) -> Entry | None:
    """Return one entry: of the fetched file, else of the installed one."""
    fetched = _fetched()
    newer = None if fetched is None else _decoded(fetched.text, name)
    return shipped_entry(name) if newer is None else newer


@functools.lru_cache(maxsize=1024)
def shipped_entry(name: str) -> Entry | None:
    """Return one entry of the installed file."""
    return _decoded(_text(_FILE), name)


@functools.cache
def entries() -> Mapping[str, Entry]:
    """Return all entries, those of the fetched file in place of the installed ones."""
    fetched = _fetched()
    return {**_whole(_text(_FILE)), **({} if fetched is None else _whole(fetched.text))}


def installed(file: str) -> dict[str, Any]:
    """Return a JSON file of the installed litellm; empty if there is none."""
    found: dict[str, Any] = json.loads(_text(file) or "{}")
    return found


def forget() -> None:
    """Read all files again, after a change of the fetched one."""
    for cached in (entry, shipped_entry, entries, _whole, _fetched, _text, _installed_origin):
        cached.cache_clear()


def _decoded(text: str, name: str) -> Entry | None:
    """Return one entry, decoded alone where the text has the usual layout: all of them take 40 ms.

    >>> entry("gpt-5.6")["litellm_provider"]
    'openai'
    """
    key = json.dumps(name)
    if key not in text:
        return None
    start = f"{_INDENT}{key}: "
    at = text.rfind(f"{start}{{") + len(start)
    if at >= len(start) and not _is_key(text, key, at):  # of equal names the last one counts
        found: Entry = _DECODER.raw_decode(text, at)[0]
        if _OF_ENTRIES in found and name != _EXAMPLE:
            return found
    return _whole(text).get(name)


def _is_key(text: str, key: str, start: int) -> bool:
    """Return True if a key of this name follows in a JSON text."""
    while (start := text.find(key, start)) >= 0:
        start += len(key)
        if text[start : start + 20].lstrip().startswith(":"):
            return True
    return False


@functools.lru_cache(maxsize=2)
def _whole(text: str) -> dict[str, Entry]:
    return {name: one for name, one in json.loads(text or "{}").items() if name != _EXAMPLE}


@functools.cache
def _text(file: str) -> str:
    """Return the text of a file of the installed litellm, without the slow import; empty if there is none."""
    folder = _package()
    path = None if folder is None else folder / file
    return path.read_text("utf-8") if path is not None and path.is_file() else ""


def _package() -> Path | None:
    spec = importlib.util.find_spec("litellm")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


@functools.cache
def _installed_origin() -> Origin:
    """Return the origin of the installed file: its day is that of the wheel's build, else of its installation."""
    folder = _package()
    if folder is None:
        return Origin("no price file", None)
    about = next(folder.parent.glob("litellm-*.dist-info"), None)
    version = "" if about is None else f" {about.name.removeprefix('litellm-').removesuffix('.dist-info')}"
    for bill in () if about is None else sorted((about / "sboms").glob("*.json")):
        with bill.open(encoding="utf-8", errors="replace") as file:
            found = _BUILT.search(file.read(_HEAD))
        if found:
            return Origin(f"litellm{version}", date.fromisoformat(found[1]))
    return Origin(f"litellm{version}", day_of(folder / _FILE), "installed")


@functools.cache
def _fetched() -> Fetched | None:
    """Return the fetched file; None if there is none, or if it is not the one that was fetched."""
    folder = price_folder()
    try:
        about = json.loads((folder / "about.json").read_text("utf-8"))
        raw = (folder / "prices.json").read_bytes()
        day, digest, source = date.fromisoformat(about["fetched"]), about["sha256"], str(about["source"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOG.warning("the price file in %s is ignored: %s; `fusion models update` fetches it again", folder, error)
        return None
    if hashlib.sha256(raw).hexdigest() != digest:
        LOG.warning(
            "the price file in %s is ignored: it was changed; `fusion models update` fetches it again", folder
        )
        return None
    return Fetched(raw.decode("utf-8"), Origin(f"prices from {source}", day, "fetched"))
