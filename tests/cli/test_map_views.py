"""Views of a map: its progress from events alone, in bounded memory, redrawn at intervals."""

import io
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from fusion.cli.views.maps.lines import MapIncidents, progress_line
from fusion.cli.views.maps.live import LiveMap
from fusion.cli.views.maps.plain import PlainMap
from fusion.cli.views.maps.progress import MapProgress
from fusion.core.events import (
    AttemptCharged,
    AttemptFailed,
    BatchEnded,
    BatchProgressed,
    BatchSubmitted,
    CallFinished,
    EventBase,
    FallbackTaken,
    MapFinished,
    MapStarted,
    Noted,
    RowFinished,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
)
from fusion.core.types import Failure, Usage

STAGES = {"read": "generate", "answer": "merge"}
LATE = Failure(reason="ModelTimeoutError", message="no answer in 3 s")
TOLD = "ModelTimeoutError: no answer in 3 s"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> MapProgress:
    made = MapProgress(clock)
    made.take(started())
    return made


def started(**more: Any) -> MapStarted:
    about: dict[str, Any] = {"run_id": "nightly", "pipeline": "p", "profile": "local", "source": "in.csv"}
    rest: dict[str, Any] = {"output": "out.csv", "concurrency": 16, "roles": {"bulk": "x/y"}, "stages": STAGES}
    return MapStarted(**{**about, **rest, **more})


def begun(number: int) -> list[EventBase]:
    run_id = f"nightly-{number}"
    return [
        RunStarted(run_id=run_id, pipeline="p", profile="local", roles={}, stages=STAGES),
        StageStarted(run_id=run_id, stage="read", kind="generate"),
    ]


def called(number: int, cost: str | None = "0.01", **more: Any) -> CallFinished:
    about: dict[str, Any] = {"step": "read", "role": "bulk", "asked": "x/y", "served": "y", "digest": ""}
    rest: dict[str, Any] = {"usage": Usage(), "latency": 1.0, "first_token": None, "finish_reason": "stop"}
    usd = None if cost is None else Decimal(cost)
    return CallFinished(run_id=f"nightly-{number}", stage="read", cost=usd, **{**about, **rest, **more})


def row(number: int, status: Any = "ok", **more: Any) -> RowFinished:
    about: dict[str, Any] = {"map": "nightly", "number": number, "key": f"T{number}", "position": number}
    return RowFinished(run_id=f"nightly-{number}", status=status, **{**about, **more})


def ended(number: int, status: Any = "ok", **more: Any) -> list[EventBase]:
    run_id = f"nightly-{number}"
    return [
        called(number),
        StageFinished(run_id=run_id, stage="read", kind="generate", status="ok", seconds=1.0),
        RunFinished(run_id=run_id, status=status, seconds=1.0),
        row(number, status, **more),
    ]


def feed(progress: MapProgress, *events: EventBase) -> None:
    for event in events:
        progress.take(event)


def test_rows_stages_and_spending_are_counted(progress: MapProgress) -> None:
    feed(progress, *begun(1), *begun(2), *begun(3), *ended(1), *ended(2, "failed", failure=LATE))
    assert (progress.done, progress.failed, progress.in_flight) == (2, 1, 1)
    read = progress.stages["read"]
    assert (read.working, read.done, read.usd) == (1, 2, Decimal("0.02"))
    feed(progress, called(3, None), AttemptCharged(run_id="nightly-3", stage="read", model="x/y", usage=Usage()))
    assert (progress.usd, progress.unknown, read.unknown) == (Decimal("0.02"), 2, 2)
    feed(progress, called(3, reused="cache"))
    assert progress.usd == Decimal("0.02")


def test_kept_rows_count_as_done_with_their_cost_and_not_in_the_rate(progress: MapProgress, clock: Clock) -> None:
    feed(progress, *(row(n, kept=True, usd=Decimal(1)) for n in range(5)))
    clock.now += 10
    progress.sample()
    assert (progress.done, progress.kept, progress.usd, progress.rate) == (5, 5, Decimal(5), 0.0)
    assert progress.seconds_left is None


@pytest.mark.parametrize(
    ("start", "fraction", "left"),
    [({"expected": 40}, None, 15.0), ({}, 0.5, 5.0), ({}, 1.0, 0.0), ({}, None, None), ({"expected": 5}, None, 0.0)],
)
def test_the_time_left_is_that_of_the_rows_left(
    clock: Clock, start: dict[str, Any], fraction: float | None, left: float | None
) -> None:
    progress = MapProgress(clock)
    progress.take(started(**start))
    feed(progress, *(row(n, fraction=fraction) for n in range(10)))
    clock.now += 5
    progress.sample()
    assert progress.rate == 2.0
    assert progress.seconds_left == (None if left is None else pytest.approx(left))


def test_the_slowest_row_is_the_one_in_flight_for_longest(progress: MapProgress, clock: Clock) -> None:
    assert progress.slowest is None
    feed(progress, *begun(1))
    clock.now += 4
    feed(progress, *begun(2), StageStarted(run_id="nightly-1", stage="answer", kind="merge"))
    assert progress.slowest == ("nightly-1", 4.0, "answer")
    feed(progress, *ended(1))
    assert progress.slowest == ("nightly-2", 0.0, "read")


def test_memory_does_not_grow_with_the_rows(progress: MapProgress) -> None:
    for number in range(5000):
        feed(progress, *begun(number), *ended(number, "failed" if number % 3 else "ok", failure=LATE))
        progress.sample()
    assert (progress.done, progress.in_flight) == (5000, 0)
    sizes = [len(value) for value in vars(progress).values() if hasattr(value, "__len__")]
    assert max(sizes) <= 120


def test_batches_are_summed(progress: MapProgress) -> None:
    where: dict[str, Any] = {"run_id": "nightly-1", "stage": "read", "model": "x/y"}
    feed(progress, BatchSubmitted(**where, batch="b1", calls=4, rows=10))
    feed(progress, BatchSubmitted(**where, batch="b2", calls=4, rows=4))
    feed(progress, BatchProgressed(**where, batch="b1", done=2, failed=1, rows=10))
    assert "in batch: 3 of 14 done" in progress_line(progress, None)
    feed(progress, BatchEnded(**where, batch="b1", status="ended", calls=4, answered=4, seconds=9.0))
    assert progress.batches == {"b2": (0, 4)}


@pytest.mark.parametrize(
    ("events", "lines"),
    [
        (
            [row(1, "failed", failure=LATE)] * 3,
            ["row T1: failed, $0.0000, 0.0 s: ModelTimeoutError: no answer in 3 s"],
        ),
        ([row(n) for n in range(3)], []),
        ([row(1, "failed", failure=LATE, kept=True)], []),
        ([Noted(run_id="nightly", message="a note")] * 2, ["a note"]),
        ([AttemptFailed(run_id="nightly-1", stage="read", model="x/y", attempt=1, failure=LATE)], []),
        (
            [
                AttemptFailed(run_id=f"nightly-{n}", stage="read", model="x/y", attempt=1, failure=LATE, wait=1.0)
                for n in range(3)
            ],
            ["nightly-0: read: attempt 1 failed, again in 1.0 s: ModelTimeoutError: no answer in 3 s"],
        ),
        (
            [FallbackTaken(run_id="nightly-1", stage="read", asked="a/b", failed="a/b", model="c/d", failure=LATE)],
            [
                "nightly-1: read: a/b cannot answer, going on with c/d: ModelTimeoutError: no answer in 3 s",
            ],
        ),
    ],
)
def test_equal_incidents_of_all_rows_are_one_line(events: list[EventBase], lines: list[str]) -> None:
    incidents = MapIncidents(verbose=False)
    assert [line for event in events for line in incidents.lines(event)] == lines
    again = len(events) - 1
    assert list(incidents.counts()) == [f"{again:,} more times: {line}" for line in lines if again]


def test_different_incidents_without_end_are_bounded() -> None:
    incidents = MapIncidents(verbose=False)
    notes = (Noted(run_id="nightly", message=f"note {n}") for n in range(5000))
    assert len([line for event in notes for line in incidents.lines(event)]) == 200


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_fits_the_terminal_and_draws_at_ticks_alone(
    progress: MapProgress, clock: Clock, width: int
) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=24, color_system=None)
    view = LiveMap(progress, verbose=False, cap=Decimal(5), console=console)
    view.show(started())
    drawn = len(console.file.getvalue())  # type: ignore[attr-defined]
    for number in range(50):
        for event in [*begun(number), *ended(number, fraction=number / 100)]:
            progress.take(event)
            view.show(event)
    feed(progress, *begun(99))
    assert len(console.file.getvalue()) == drawn  # type: ignore[attr-defined]
    clock.now += 10
    view.tick()
    text = console.file.getvalue()[drawn:]  # type: ignore[attr-defined]
    view.close()
    lines = [line for line in text.splitlines() if line.strip("\x1b[?25l \r")]
    assert "nightly  50 rows done (49%)" in text
    assert "1 in flight, 5.0 rows/s, $0.5000 of $5.0000, 10 s left" in text
    assert "slowest: nightly-99 in 'read' for 10 s" in text
    assert all(len(line) <= width + 10 for line in lines)  # escapes aside


def test_lines_come_at_growing_intervals_and_not_for_each_row(
    progress: MapProgress, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    view = PlainMap(progress, verbose=False, cap=None, clock=clock)
    view.show(started())
    for second in range(120):
        for number in range(10):
            event = row(10 * second + number)
            progress.take(event)
            view.show(event)
        clock.now += 1
        view.tick()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("p: map nightly; profile local; bulk=x/y; rows from in.csv, 16 at once")
    assert [line.split()[0] for line in lines[1:]] == ["30", "90", "210", "450", "750", "1,050"]
    feed(progress, MapFinished(run_id="nightly", status="ok", ok=1, partial=0, failed=0, waiting=0, seconds=1.0))
    clock.now += 60
    view.tick()
    assert capsys.readouterr().err == ""
