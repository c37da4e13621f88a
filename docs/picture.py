"""Draw the README's picture of a run: `python docs/picture.py [FILE]`.

It shows the recorded run of `fusion demo`, drawn by the views of the command line: a frame of the live view, the
answer, the receipt and the timeline.
"""

import io
import sys
from datetime import datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from fusion.cli.commands.demo import recording_path
from fusion.cli.views.history.timeline import receipt_of, timeline_table
from fusion.cli.views.live.terminal import LiveView
from fusion.client.recording import Recording
from fusion.core.events import EventBase, ItemFinished

PICTURE: Final = Path(__file__).parent / "pages" / "images" / "demo.svg"
COLUMNS: Final = 104
REVIEWED: Final = 2
"""Reviews that have ended in the frame of the live view: stages before them are done, stages after them wait."""

THEME: Final = TerminalTheme(
    background=(13, 17, 23),
    foreground=(201, 209, 217),
    normal=[
        (72, 79, 88),
        (255, 123, 114),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (201, 209, 217),
    ],
)
"""Colours that are readable on the light and the dark pages of a code host."""

FRAME: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="A run of fusion demo">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; \
font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own frame without the fonts that it fetches from the network."""


class Stopped:
    """A clock that is set by hand, in seconds since the run began."""

    def __init__(self, began: datetime) -> None:
        self._began = began
        self._seconds = 0.0

    def __call__(self) -> float:
        return self._seconds

    def set(self, moment: datetime) -> None:
        self._seconds = (moment - self._began).total_seconds()


def picture(recording: Recording) -> str:
    """The picture as SVG."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=COLUMNS,
        height=60,
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
        legacy_windows=False,
        _environ={},
    )
    details = recording.outcome.details
    console.print(Text.assemble(("$ ", "dim"), ("fusion demo", "bold")))
    _print_frame(console, recording)
    console.print(Text("⋮", style="dim"))
    console.print(recording.outcome.text.rstrip(), "", sep="\n", markup=False)
    console.print("\n".join(receipt_of(details, COLUMNS)), "", sep="\n", markup=False)
    console.print(timeline_table(details, COLUMNS), "", sep="\n")
    return console.export_svg(title="fusion demo", theme=THEME, code_format=FRAME, unique_id="demo")


def _print_frame(console: Console, recording: Recording) -> None:
    clock = Stopped(recording.began)
    view = LiveView(verbose=False, clock=clock, console=console)
    for event in _until_reviewed(recording.events):
        clock.set(event.at)
        view.show(event)
    console.print(view.frame())


def _until_reviewed(events: tuple[EventBase, ...]) -> tuple[EventBase, ...]:
    reviewed = [at for at, event in enumerate(events) if isinstance(event, ItemFinished) and event.stage == "review"]
    return events[: reviewed[REVIEWED - 1] + 1]


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    target.write_text(picture(Recording.read(recording_path())), "utf-8")
