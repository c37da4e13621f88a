"""Streams: text files opened for one pass, plain or compressed, with the bytes read so far."""

import gzip
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from fusion.core.errors import InputError
from fusion.pipeline.rows.parsing import BadRowError

COMPRESSED: Final = (".gz", ".xz")


class Reading:
    """A file that is read from its beginning to its end; counts the bytes on disk."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._raw: BinaryIO | None = None
        self._done = 0.0
        self.total: float | None = None

    @property
    def done(self) -> float:
        """Bytes read so far."""
        raw = self._raw
        if raw is not None and self.total is not None:
            with suppress(ValueError):  # closed meanwhile, by the thread that reads
                self._done = float(raw.tell())
        return self._done

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the file, unpacked, for a pass. Raises InputError for what cannot be opened, read or unpacked."""
        try:
            with self._path.open("rb") as raw:
                self._raw = raw
                status = os.fstat(raw.fileno())
                self.total = float(status.st_size) if raw.seekable() else None
                with self._unpacked(raw) as file:
                    yield file
                self._done = self.done
        except BadRowError as error:
            raise InputError(f"{self._name} line {error.line}: {error}") from error
        except EOFError as error:
            raise InputError(f"{self._name}: the compressed file is cut off; make or fetch it again") from error
        except (lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
            kind = self._path.suffix.removeprefix(".")
            raise InputError(f"{self._name}: cannot unpack it as {kind}: {error}") from error
        except OSError as error:
            raise InputError(f"cannot read {self._name!r}: {error.strerror or error}") from error
        finally:
            self._raw = None

    @contextmanager
    def _unpacked(self, raw: BinaryIO) -> Iterator[BinaryIO]:
        if self._path.suffix == ".gz":
            with gzip.open(raw) as file:
                yield cast(BinaryIO, file)
        elif self._path.suffix == ".xz":
            with lzma.open(raw) as file:
                yield cast(BinaryIO, file)
        else:
            yield raw
