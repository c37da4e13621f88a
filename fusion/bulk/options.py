"""Options: the keyword arguments of a map."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

from fusion.bulk.sources import SourceFormat
from fusion.core.budget import Budget, BudgetGiven
from fusion.core.errors import UsageError
from fusion.core.events import Sink
from fusion.core.params import AnswerOptions, CacheMode
from fusion.pipeline.loader import PipelineGiven

CONCURRENCY: Final = 16
BATCH_CONCURRENCY: Final = 5000
ELSEWHERE_CONCURRENCY: Final = 1000
_SHARE: Final = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*%")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ENOUGH: Final = 100
"""Rows that are done before a share of failed ones can stop a map."""


class MapOptions(TypedDict, total=False):
    """Options of a map.

    `pipeline` is a name, a path or an object. `columns` maps inputs of the pipeline to columns of other names,
    `constants` are inputs with one value for all rows. `id` names the map, so that it can be continued; rows from
    Python and standard input need one for that. `key` is the column that identifies a row.

    `output` is a file of JSONL, CSV or Parquet; `format` is that of rows on standard input. `limit` is the number of
    rows to read, `sample` of rows to draw by a hash of their keys. With `ordered` rows come in the order of the
    inputs. `fail_fast` ends the map at the first failed row, `max_failed` beyond so many, or such a share ("5%").
    `retry_failed` asks again for rows that failed or lack parts.

    `on="workers"` runs the rows on the processes of `fusion worker` that serve the store of the map, a PostgreSQL
    database; `on="ray"` on the Ray cluster of RAY_ADDRESS or of this machine, or on a new one here, and
    `on="ray://HOST:PORT"` on that cluster. Events of their stages stay there.

    `concurrency` rows are worked on at once: 16 by default, 5,000 with `batch`, 1,000 with `on`. `budget` limits the
    whole map over all its passes, `within` is a budget that it shares with others. `batch` allows the batch APIs of
    providers. `tags` are kept with the map and its rows; `cache` overrides the cache modes. `answer` are options of
    the stage that writes the answer of each row. `on_event` receives every event, on the thread of the private loop.
    """

    pipeline: PipelineGiven
    columns: Mapping[str, str] | None
    constants: Mapping[str, Any] | None
    id: str | None
    key: str | None
    output: str | Path | None
    format: SourceFormat | None
    limit: int | None
    sample: int | None
    ordered: bool
    fail_fast: bool
    max_failed: int | str | None
    retry_failed: bool
    on: str | None
    concurrency: int | None
    budget: BudgetGiven
    within: Budget | str | None
    tags: Mapping[str, str] | None
    cache: CacheMode | None
    batch: bool
    answer: AnswerOptions | Mapping[str, Any] | None
    on_event: Sink | None


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The number or share of failed rows that a map accepts; without one, a failed row fails the map at its end."""

    count: int | None = None
    share: float | None = None
    fail_fast: bool = False

    @classmethod
    def of(cls, given: int | str | None, *, fail_fast: bool) -> "Tolerance":
        """Read a number or a share such as "5%". Raises UsageError."""
        if fail_fast and given is not None:
            raise UsageError("--fail-fast stops at the first failed row, so --max-failed has no effect; give one")
        match given:
            case None:
                return cls(fail_fast=fail_fast)
            case bool():
                pass
            case int() if given >= 0:
                return cls(count=given)
            case str() if given.strip().isdecimal():
                return cls(count=int(given))
            case str() if (share := _SHARE.fullmatch(given.strip())) and float(share[1]) <= 100:
                return cls(share=float(share[1]) / 100)
        raise UsageError(f"max_failed is {given!r}; give a number of rows, or a share such as 5%")

    def ends(self, failed: int, done: int) -> bool:
        """Return True if the map ends now, with so many failed rows of those done."""
        if not failed:
            return False
        if self.count is not None:
            return failed > self.count
        if self.share is not None:
            return done >= _ENOUGH and failed > self.share * done
        return self.fail_fast

    def passed(self, failed: int, rows: int) -> bool:
        """Return True if so many failed rows are too many at the end."""
        if self.count is not None:
            return failed > self.count
        return failed > (self.share or 0.0) * rows

    def passed_words(self, failed: int) -> str:
        """Return the reason why a map ends with so many failed rows."""
        rows = "1 row" if failed == 1 else f"{failed:,} rows"
        if self.fail_fast:
            return f"{rows} failed, and --fail-fast ends the map there"
        return f"{rows} failed, more than the {self} that --max-failed allows"

    def __str__(self) -> str:
        return f"{self.count:,}" if self.count is not None else f"{(self.share or 0) * 100:g}%"


@dataclass(frozen=True, slots=True)
class Choice:
    """The rows to read: the first `limit`, or `sample` ones drawn by a hash of their keys; None for all."""

    limit: int | None = None
    sample: int | None = None

    @classmethod
    def of(cls, limit: int | None, sample: int | None) -> "Choice":
        for name, number in (("limit", limit), ("sample", sample)):
            if number is not None and (isinstance(number, bool) or number < 1):
                raise UsageError(f"{name} is {number!r}; give a number of rows, at least 1")
        return cls(limit, sample)

    @property
    def whole(self) -> bool:
        """True if all rows are read."""
        return self.limit is None and self.sample is None


def checked_id(given: str | None) -> str | None:
    """Return the id of a map. Raises UsageError for one that no run id can begin with."""
    if given is not None and not _ID.fullmatch(given):
        raise UsageError(f"the id of a map is {given!r}; use up to 64 letters, digits, dots, - and _")
    return given


def checked_concurrency(given: int | None, *, batch: bool, here: bool = True) -> int:
    """Return the number of rows at once; of rows that wait for batches, or run elsewhere, as many as may be open."""
    if given is None and not here:
        return BATCH_CONCURRENCY if batch else ELSEWHERE_CONCURRENCY
    if given is None:
        return BATCH_CONCURRENCY if batch else CONCURRENCY
    if isinstance(given, bool) or not 1 <= given <= 10_000:
        raise UsageError(f"concurrency is {given!r}; give a number of rows from 1 to 10,000")
    return given


RowState = Literal["ok", "partial", "failed"]
