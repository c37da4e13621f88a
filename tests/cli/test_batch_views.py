"""Batches in the views of a run: lines, the live frame, the receipt and times."""

from decimal import Decimal
from typing import Any

import pytest

from fusion.cli.views.lines import seconds, times_words, waited_words
from fusion.cli.views.live.progress import Progress, batch_line
from fusion.cli.views.live.terminal import LiveView
from fusion.cli.views.receipt import receipt_rows
from fusion.core.events import (
    BatchEnded,
    BatchProgressed,
    BatchSubmitted,
    CallStarted,
    EventBase,
    RunFinished,
    RunStarted,
    StageStarted,
)
from fusion.core.result import Receipt, ReceiptLine, Times
from fusion.core.types import Waited

AT: dict[str, Any] = {"run_id": "r", "stage": "read", "role": "bulk", "model": "a/one", "batch": "b7"}
SUBMITTED = BatchSubmitted(**AT, calls=14, rows=14)
OTHER = BatchSubmitted(**{**AT, "batch": "b8"}, calls=6, rows=6)
STARTED = RunStarted(run_id="r", pipeline="p", profile="x", roles={"bulk": "a/one"}, stages={"read": "map"})


def progressed(done: int, failed: int = 0, **more: Any) -> BatchProgressed:
    return BatchProgressed(**{**AT, **more}, done=done, failed=failed, rows=14)


def ended(status: Any, answered: int = 14, message: str = "") -> BatchEnded:
    return BatchEnded(**AT, status=status, calls=14, answered=answered, seconds=182, message=message)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (SUBMITTED, "read: 14 calls to a/one in batch b7"),
        (BatchSubmitted(**AT, calls=1, rows=1, joined=True), "read: 1 call to a/one again in batch b7"),
        (progressed(2, 1), "read: in batch b7, 3 of 14 done"),
        (ended("ended"), "read: batch b7 ended after 3 min 02 s, 14 of 14 answered"),
        (ended("ended", 13), "read: batch b7 ended after 3 min 02 s, 13 of 14 answered, the others go on"),
        (
            ended("expired", 2, "a day\nis over"),
            "read: batch b7 expired after 3 min 02 s, 2 of 14 answered, the others go on: a day is over",
        ),
        (
            ended("refused", 0, "quota"),
            "read: batch b7 refused after 3 min 02 s, 0 of 14 answered, the others go on: quota",
        ),
        (ended("late", 0), "read: 14 of batch b7 are late and go to the live API"),
    ],
)
def test_a_line_tells_what_becomes_of_a_batch(event: EventBase, line: str) -> None:
    assert batch_line(event) == line


def test_other_events_have_no_line_of_batches() -> None:
    assert batch_line(STARTED) is None


def shown(*events: EventBase) -> str:
    from rich.console import Console

    console = Console(width=120, force_terminal=False, color_system=None)
    view = LiveView(verbose=False, clock=lambda: 0.0, console=console)
    view._say = lambda line, style="": None  # type: ignore[method-assign]  # only the frame is of interest
    for event in (STARTED, StageStarted(run_id="r", stage="read", kind="map"), *events):
        view.show(event)
    with console.capture() as captured:
        console.print(view.frame())
    return captured.get()


def call(number: int) -> CallStarted:
    return CallStarted(run_id="r", stage="read", item=number, step="work", role="bulk", model="a/one", digest="d")


CALLS = [call(number) for number in range(14)]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([SUBMITTED], "in batch, 0 of 14 done"),
        ([SUBMITTED, progressed(2, 1)], "in batch, 3 of 14 done"),
        (
            [SUBMITTED, progressed(3), BatchSubmitted(**{**AT, "batch": "b8"}, calls=6, rows=6)],
            "in batch, 3 of 20 done",
        ),
        ([SUBMITTED, ended("ended")], "14 in flight"),
        ([], "14 in flight"),
    ],
)
def test_the_live_view_tells_how_far_batches_are(events: list[EventBase], words: str) -> None:
    assert words in shown(*CALLS, *events)


def test_an_inner_stage_counts_in_its_outermost() -> None:
    progress = Progress(lambda: 0.0)
    for event in (STARTED, BatchSubmitted(**{**AT, "stage": "read/inner"}, calls=2, rows=2)):
        progress.take(event)
    assert progress.stages["read"].batches == {"b7": (0, 2)}
    progress.take(RunFinished(run_id="r", status="ok", seconds=1))
    assert progress.stages["read"].batches == {}


@pytest.mark.parametrize(("batched", "words"), [(0, ""), (3, "3 (3 in batch)"), (2, "3 (2 in batch)")])
def test_a_receipt_counts_calls_in_batches(batched: int, words: str) -> None:
    line = ReceiptLine(
        stage="read", role="bulk", model="a/one", calls=3, batched=batched, batch_saved=Decimal("0.01") * batched
    )
    said = "\n".join(receipt_rows(Receipt(lines=(line,), seconds=1), {"read": 1.0}))
    assert words in said
    assert (f"{batched} in batch saved ${0.01 * batched:.4f}" in said) is bool(batched)


@pytest.mark.parametrize(
    ("value", "words"),
    [(7199, "119 min 59 s"), (7200, "2 h 00 min"), (12_000, "3 h 20 min"), (86_400, "24 h 00 min"), (59, "59 s")],
)
def test_long_times_are_in_hours(value: float, words: str) -> None:
    assert seconds(value) == words


def test_the_wait_for_a_batch_is_named() -> None:
    assert waited_words(Waited(batch=12_000)) == ", waited 3 h 20 min (batches)"
    assert times_words(Times(model=1, batch=12_000)) == " (models 1.0 s, batches 3 h 20 min)"
