"""A recorded run: its events, its answer and its timeline, in one file of JSON lines.

The first line says where the run was made, the lines after it are its events, and the last one is its outcome.
"""

import os
import platform
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

from fusion import __version__
from fusion.client.history.run_types import RunDetails
from fusion.core.errors import UsageError
from fusion.core.events import Event, event_adapter
from fusion.core.paths import read_text
from fusion.core.types import Value
from fusion.models.base import ModelInfo
from fusion.models.speed import pace_of

_MEASURED_THREADS = 2
"""The number of threads for which the paces of the embedded models are known."""


class Made(Value):
    """The program and the machine that made a recording.

    `load` is the number of processes that wanted a core in the minute before the run. `subject` is the digest of the
    request and its material.
    """

    type: Literal["made"] = "made"
    version: str
    cores: int
    load: float
    machine: str
    subject: str

    @property
    def busy(self) -> bool:
        """True where the run had to share its cores with other work."""
        return self.load > self.cores / 2


class Outcome(Value):
    """The answer of a recorded run, and its stages, calls and receipt."""

    type: Literal["outcome"] = "outcome"
    text: str
    details: RunDetails


class Recording(Value):
    """A run that can be played again without any model."""

    made: Made
    events: tuple[Event, ...]
    outcome: Outcome

    @classmethod
    def read(cls, path: Path) -> "Recording":
        """The recording in a file. Raises UsageError for a file that is not one."""
        adapter = event_adapter()
        try:
            made, *events, outcome = read_text(path).splitlines()
            return cls(
                made=Made.model_validate_json(made),
                events=tuple(adapter.validate_json(line) for line in events),
                outcome=Outcome.model_validate_json(outcome),
            )
        except ValueError as error:
            raise UsageError(f"{str(path)!r} is not a recording that this version reads: {error}") from error

    @classmethod
    def of_run(
        cls, events: Iterable[str], text: str, details: RunDetails, *, load: float, subject: str
    ) -> "Recording":
        """The recording of a run that has just ended here. `events` are the lines of `--events-to`."""
        made = Made(version=__version__, cores=_cores(), load=round(load, 1), machine=_machine(), subject=subject)
        return cls(
            made=made,
            events=tuple(map(event_adapter().validate_json, events)),
            outcome=Outcome(text=text, details=details),
        )

    def write(self, path: Path) -> None:
        """Write the file that `read` reads."""
        values = (self.made, *self.events, self.outcome)
        path.write_text("".join(f"{value.model_dump_json()}\n" for value in values), "utf-8")

    @property
    def began(self) -> datetime:
        return self.events[0].at

    @property
    def seconds(self) -> float:
        """The time from the first event to the last."""
        return (self.events[-1].at - self.began).total_seconds()

    @property
    def models(self) -> list[str]:
        """The names of the models that answered, the most capable first, without format and precision."""
        served = sorted({line.served.partition("-instruct")[0] for line in self.outcome.details.models})
        return served[::-1]


def expected_seconds(recording: Recording, threads: int | None = None) -> float:
    """The time of the same calls at the usual pace of their models.

    Embedded models share `threads` and answer one call at a time; hosted ones (None) answer those of a stage at once.
    """
    stages: dict[str, list[float]] = {}
    for call in recording.outcome.details.calls:
        if call.usage is not None:
            pace = pace_of(ModelInfo(id=call.asked if threads else "", provider="", local=threads is not None))
            stages.setdefault(call.stage, []).append(pace.seconds(call.usage.input, call.usage.output))
    if threads is None:
        return sum(map(max, stages.values()))
    return sum(map(sum, stages.values())) * _MEASURED_THREADS / threads


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine() -> str:
    """The processor and the system, such as `AMD EPYC, Linux x86_64`."""
    return f"{_processor()}, {platform.system()} {platform.machine()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )
