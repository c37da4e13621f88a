"""Update: fetch a newer price file on request, check it, and keep it in the user's cache folder."""

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any, Final
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from fusion.core.errors import FetchError, UsageError
from fusion.core.paths import read_bytes, user_path
from fusion.models.catalog.price_file import Origin, forget, origin, price_folder

OFFICIAL: Final = "https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json"
"""The price file that litellm itself publishes and reads."""
_LARGEST: Final = 30_000_000
_SECONDS: Final = 20.0
_WHOLE_SECONDS: Final = 120.0
_CHUNK: Final = 1 << 16
_HERE: Final = ("127.0.0.1", "::1", "localhost")
_COST: Final = "_cost"
_KEPT: Final = "the prices in use are kept"


def update(source: str | None = None) -> Origin:
    """Fetch a price file from its official address, or a `source`: a file or a URL. Return its origin.

    Its entries count in place of the installed ones; those that it lacks stay. Raises UsageError for a source that
    cannot be used, FetchError if it cannot be fetched or is no price file; then the prices in use are kept.
    """
    address = source or OFFICIAL
    if "://" in address:
        raw = _downloaded(address)
        shown = urlsplit(address).hostname or address
        try:
            _check(raw)
        except ValueError as error:
            raise FetchError(f"{shown} sent no price file: {error}; {_KEPT}") from error
    else:
        path = user_path(address)
        raw = read_bytes(path, most=_LARGEST, what="price file", then=f"; {_KEPT}")
        shown = str(path.absolute())
        try:
            _check(raw)
        except ValueError as error:
            raise UsageError(f"{address!r} is no price file: {error}; {_KEPT}") from error
    _keep(raw, shown)
    forget()
    return origin()


def reset() -> bool:
    """Remove the fetched price file; return False if there is none."""
    found = False
    for name in ("about.json", "prices.json"):
        with suppress(FileNotFoundError):
            (price_folder() / name).unlink()
            found = True
    forget()
    return found


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to addresses that may be asked."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if not _is_asked(newurl):
            raise URLError(f"it leads to {newurl!r}, which is not asked")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_asked(address: str) -> bool:
    """Return True for an address that is asked over HTTPS, or on this machine."""
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HERE)


def _downloaded(address: str) -> bytes:
    if not _is_asked(address):
        raise UsageError(f"{address!r} is not asked: give an https:// address, or a file")
    host = urlsplit(address).hostname
    request = Request(address, headers={"Accept": "application/json"})  # noqa: S310 - its scheme is checked
    end = time.monotonic() + _WHOLE_SECONDS
    try:
        with build_opener(_Redirects).open(request, timeout=_SECONDS) as response:
            return _body(response, end, response.length)
    except (URLError, HTTPException, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise FetchError(
            f"cannot fetch prices from {host}: {why}; {_KEPT} (`--from FILE` takes a copy of the file)"
        ) from error


def _body(response: IO[bytes], end: float, length: int | None) -> bytes:
    """Read a body. Raises ValueError if it is too large, too slow or cut short."""
    parts: list[bytes] = []
    size = 0
    while part := response.read(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > _LARGEST:
            raise ValueError(f"it sends more than {_LARGEST:,} bytes")
        if time.monotonic() > end:
            raise ValueError(f"it takes more than {_WHOLE_SECONDS:.0f} s")
    if length is not None and size < length:
        raise ValueError(f"it sent {size:,} of {length:,} bytes")
    return b"".join(parts)


def _check(raw: bytes) -> None:
    """Raise ValueError unless the bytes are a price file: a JSON object of entries with sound prices."""
    try:
        data = json.loads(raw.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from error
    if not isinstance(data, dict) or not data:
        raise ValueError("expected a JSON object with an entry for each model")
    fault = next(_faults(data), None)
    if fault is not None:
        raise ValueError(fault)


def _faults(data: Mapping[str, Any]) -> Iterator[str]:
    priced = 0
    for name, entry in data.items():
        if not isinstance(entry, dict):
            yield f"the entry {name[:60]!r} is no object"
            return
        for key, value in entry.items():
            if key.endswith("_per_token") and _COST in key and not _is_price(value):
                yield f"{key} of {name[:60]!r} is {str(value)[:40]!r}, no price"
        priced += "input_cost_per_token" in entry and "litellm_provider" in entry
    if not priced:
        yield "no entry has `litellm_provider` and `input_cost_per_token`"


def _is_price(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _keep(raw: bytes, source: str) -> None:
    """Write the file, then its record: without a matching record it does not count."""
    folder = price_folder()
    about = {
        "source": source,
        "fetched": datetime.now(UTC).date().isoformat(),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "bytes": len(raw),
    }
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(folder / "prices.json", raw)
        _replace(folder / "about.json", json.dumps(about, indent=1).encode())
    except OSError as error:
        raise UsageError(f"cannot write to {str(folder)!r}: {error.strerror}; {_KEPT}") from error


def _replace(path: Path, raw: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
