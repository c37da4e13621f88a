"""Playback: shows a recorded run in the views of a live one, faster."""

import sys
import time
from datetime import datetime
from typing import Final

from fusion.cli.interrupts import Interrupts
from fusion.cli.terminal import complain, ended, is_live, is_terminal, width_of, write
from fusion.cli.views.answer import StreamedAnswer
from fusion.cli.views.history.timeline import receipt_of, timeline_lines, timeline_table
from fusion.cli.views.live.follow import Follower, Viewer
from fusion.cli.views.live.plain import Plain
from fusion.cli.views.live.terminal import LiveView
from fusion.client.history.run_types import RunDetails
from fusion.client.recording import Recording
from fusion.core.events import Delta

PLAYED_IN: Final = 20.0
"""Seconds of a playback; a shorter run keeps its own pace."""


class Clock:
    """Seconds since the start of a recorded run, `speed` times as fast."""

    def __init__(self, began: datetime, speed: float) -> None:
        self._began = began
        self._speed = speed
        self._start = time.monotonic()

    def __call__(self) -> float:
        return (time.monotonic() - self._start) * self._speed

    def wait_until(self, moment: datetime) -> None:
        """Sleep until the recorded run was at this moment."""
        ahead = (moment - self._began).total_seconds() - self()
        if ahead > 0:
            time.sleep(ahead / self._speed)


def play(recording: Recording, *, quiet: bool, verbose: bool) -> None:
    """Show the run, its answer, receipt and timeline; `quiet` prints the answer alone, at once."""
    text, details = recording.outcome.text, recording.outcome.details
    if quiet:
        write(ended(text))
        return
    clock = Clock(recording.began, max(1.0, recording.seconds / PLAYED_IN))
    screen = LiveView(verbose=verbose, clock=clock) if is_live(sys.stderr) else Plain(verbose=verbose)
    streamed = _streamed(recording, screen)
    with Interrupts():
        faults = _show(recording, clock, [screen, *([streamed] if streamed else [])])
        streamed.finish(text) if streamed else write(ended(text))
        screen.release()
    _say_receipt(details)
    for fault in faults:
        raise fault


def _show(recording: Recording, clock: Clock, viewers: list[Viewer]) -> list[Exception]:
    """Show each event at its time; return the faults of the viewers."""
    follower = Follower(viewers)
    try:
        for event in recording.events:
            clock.wait_until(event.at)
            follower.take(event)
    finally:
        follower.close()
    return follower.faults


def _streamed(recording: Recording, screen: LiveView | Plain) -> StreamedAnswer | None:
    """Return the view that streams the answer, if standard output is a terminal."""
    stage = next((event.stage for event in recording.events if isinstance(event, Delta)), None)
    if stage is None or not is_terminal(sys.stdout):
        return None
    return StreamedAnswer(stage, before=screen.hold if is_terminal(sys.stderr) else lambda: None)


def _say_receipt(details: RunDetails) -> None:
    """Print receipt and timeline to standard error."""
    complain("\n".join(["", *receipt_of(details, width_of(sys.stderr)), ""]))
    if not is_live(sys.stderr):
        complain("\n".join(timeline_lines(details)))
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    console.print(timeline_table(details, console.width))
