"""Weights of the embedded models: their manifest, location and verification.

A file is identified by its size and SHA-256, so that it may come from any source; `download` fetches it.
"""

import functools
import hashlib
import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from pydantic import Field

from fusion.core.config import Settings
from fusion.core.errors import MissingKeyError, UsageError
from fusion.core.log import LOG
from fusion.core.paths import user_path
from fusion.core.types import Value

GGUF_MAGIC = b"GGUF"

Tiers = Mapping[str, "Weights"]


class Wheels(Value):
    """Wheels that carry a file in parts: `project` holds `{part}`, the number of the part from 1.

    `member` is the glob pattern of the one data file in each wheel.
    """

    project: str
    version: str
    parts: int = Field(gt=0)
    member: str


class Weights(Value):
    """The file of one embedded model. `size` is in bytes, `context` in tokens; `hub` is a URL."""

    file: str
    size: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    context: int = Field(gt=0)
    licence: str
    hub: str
    wheels: Wheels


@functools.cache
def manifest() -> Tiers:
    """Return the known embedded models, by tier."""
    text = Path(__file__).with_name("weights.toml").read_text("utf-8")
    tiers = {tier: Weights.model_validate(entry) for tier, entry in tomllib.loads(text).items()}
    return MappingProxyType(tiers)


def find(wanted: str, settings: Settings, *, tiers: Tiers | None = None) -> Path | None:
    """Return the file of a tier (`small`, `local/small`) or of the user (`local:/path/any.gguf`), if it exists.

    Checks name and size only; `require` verifies the content.
    """
    own = _own_path(wanted)
    if own is not None:
        return own if own.is_file() else None
    weights = named(wanted, tiers)
    path = settings.models_dir / weights.file
    return path if has_size(path, weights) else None


def require(model_id: str, settings: Settings, *, tiers: Tiers | None = None) -> Path:
    """Return the verified file of `local/small`, `local:/path/any.gguf`, …; a tier's hash is computed once.

    Raises MissingKeyError if there is none, UsageError if it is damaged or in the wrong format.
    """
    path = find(model_id, settings, tiers=tiers)
    if path is None:
        raise _missing(model_id, settings, tiers)
    if _own_path(model_id) is not None:
        _check_magic(path)
        return path
    weights = named(model_id, tiers)
    found = checked_hash(path, weights)
    if found != weights.sha256:
        raise UsageError(
            f"{str(path)!r} is damaged: its SHA-256 is {found}, expected {weights.sha256}; "
            f"run `fusion models pull {tier_of(model_id)}` to fetch it anew"
        )
    return path


# Names.


def tier_of(wanted: str) -> str:
    return wanted.removeprefix("local/")


def _own_path(wanted: str) -> Path | None:
    if wanted.startswith("local:"):
        return user_path(wanted.removeprefix("local:"))
    return None


def named(wanted: str, tiers: Tiers | None) -> Weights:
    known = manifest() if tiers is None else tiers
    weights = known.get(tier_of(wanted))
    if weights is None:
        raise UsageError(
            f"no embedded model {tier_of(wanted)!r}; there are: {', '.join(sorted(known))}, "
            "and a file of your own as 'local:/path/to/model.gguf'"
        )
    return weights


def _missing(model_id: str, settings: Settings, tiers: Tiers | None) -> MissingKeyError:
    own = _own_path(model_id)
    if own is not None:
        return MissingKeyError(f"no weights for {model_id!r}: there is no file {str(own)!r}")
    weights = named(model_id, tiers)
    return MissingKeyError(
        f"no weights for {model_id!r} in {str(settings.models_dir)!r}: run `fusion models pull {tier_of(model_id)}` "
        f"({megabytes(weights)}), or set a provider's key, such as OPENROUTER_API_KEY, and choose its profile"
    )


def megabytes(weights: Weights) -> str:
    return f"{weights.size / 1e6:,.0f} MB"


# Verification.


def has_size(path: Path, weights: Weights) -> bool:
    try:
        return path.is_file() and path.stat().st_size == weights.size
    except OSError:
        return False


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.checked")


def mark(path: Path, digest: str) -> None:
    """Record the verified hash beside the file. In a read-only folder, each start computes it again."""
    try:
        _marker(path).write_text(json.dumps(_looks(path, digest)))
    except OSError as error:
        LOG.debug("%s: hashed at every start, since its checksum cannot be kept beside it: %s", path, error)


def _looks(path: Path, digest: str) -> dict[str, object]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}


def checked_hash(path: Path, weights: Weights) -> str:
    """Return the hash of the file, from the marker beside it if that matches the file."""
    with suppress(OSError, ValueError):
        if json.loads(_marker(path).read_text()) == _looks(path, weights.sha256):
            return weights.sha256
    found = sha256_of(path)
    if found == weights.sha256:
        mark(path, found)
    return found


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if magic != GGUF_MAGIC:
        raise UsageError(f"{str(path)!r} is not a GGUF file: give weights in llama.cpp's format")
