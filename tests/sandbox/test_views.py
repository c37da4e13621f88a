"""Commands in the sandbox in the views: lines of a run, its history, its page and its traces."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rich.console import Console

from fusion import Fusion
from fusion.cli.views.history.timeline import timeline_lines
from fusion.cli.views.live.plain import Plain
from fusion.cli.views.live.terminal import LiveView
from fusion.client.history import History
from fusion.core.events import CommandFinished
from fusion.core.types import StoppedBy
from fusion.sandbox.base import Command
from fusion.server.page.run import RunView
from fusion.server.runs.progress import Progress
from tests.conftest import run
from tests.sandbox.shell import shells

EVENTS = [
    (CommandFinished(stage="check", program="python3", by="monty", code=0, seconds=0.002), "exit code 0"),
    (CommandFinished(stage="check", program="sh", by="bubblewrap", code=3, seconds=1.5), "exit code 3"),
    (CommandFinished(stage="check", program="sh", by="runner", code=-11, seconds=1.5), "killed by signal 11"),
    (CommandFinished(stage="check", item=4, program="a\x1b[1mb", by="bubblewrap", code=1, seconds=0), "exit code 1"),
    (CommandFinished(stage="check", program="sh", by="bubblewrap", code=0, seconds=9, reused=True), "ran before"),
]


@pytest.mark.parametrize(("event", "words"), EVENTS)
def test_verbose_views_name_every_command(
    event: CommandFinished, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Plain(verbose=True).show(event)
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert f"in {event.by}" in line
    assert "\x1b" not in line
    assert ("check 5" in line) == (event.item == 4)
    Plain(verbose=False).show(event)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("limit", ["seconds", "memory", "disk", "output"])
def test_every_view_tells_of_a_command_that_a_limit_stopped(
    limit: StoppedBy, capsys: pytest.CaptureFixture[str]
) -> None:
    event = CommandFinished(stage="check", program="sh", by="bubblewrap", code=-9, stopped_by=limit, seconds=1)
    Plain(verbose=False).show(event)
    assert "check: sh in the sandbox stopped: it " in capsys.readouterr().err
    console = Console(file=io.StringIO(), width=100)
    LiveView(verbose=False, console=console).show(event)
    assert "sh in the sandbox stopped: it " in console.file.getvalue()


def test_the_history_of_a_run_lists_its_commands(
    fusion: Callable[..., Fusion], ran: list[Command], tmp_path: Path
) -> None:
    made = fusion(store=tmp_path / "runs.db")
    result, _ = run(made, None, pipeline=shells("a", "b"))
    details = History(made.store).show(result.run_id)
    assert [(one.program, one.by, one.code, one.seconds) for one in details.commands] == [
        ("sh", "double", 0, 0.25)
    ] * 2
    lines = [line for line in timeline_lines(details) if "command" in line]
    assert len(lines) == 2
    assert "sh in double: exit code 0, 0.2" in lines[0]
    assert json.loads(details.model_dump_json())["commands"][0]["program"] == "sh"


def test_the_page_of_a_run_lists_its_commands(
    fusion: Callable[..., Fusion], ran: list[Command], tmp_path: Path
) -> None:
    made = fusion(store=tmp_path / "runs.db")
    result, _ = run(made, None, pipeline=shells("a", "b"))
    row = made.store.run(result.run_id)
    assert row is not None
    commands = RunView(made.store, row, Progress()).whole()["commands"]
    assert [(one["stage"], one["program"], one["code"]) for one in commands] == [("sh", "sh", 0)] * 2


def test_a_trace_has_a_span_for_each_command(fusion: Callable[..., Fusion], ran: list[Command]) -> None:
    provider, spans = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    run(fusion(telemetry=provider), None, pipeline=shells("a", "b"))
    found = [span for span in spans.get_finished_spans() if span.name == "command sh"]
    assert [dict(span.attributes or {})["fusion.sandbox"] for span in found] == ["double", "double"]
    assert all(span.end_time - span.start_time == 250_000_000 for span in found)
