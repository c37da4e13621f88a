"""Times and prompt caches as they are shown: receipt, lines of calls, and bars of the timeline."""

import functools
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from fusion import ScriptedModel
from fusion.cli.views.history.timeline import timeline_lines, timeline_table
from fusion.cli.views.lines import call_line
from fusion.cli.views.receipt import receipt_rows
from fusion.client import client
from fusion.client.history.run_types import CallLine, RunDetails, RunSummary, StageLine
from fusion.core.errors import RateLimitError
from fusion.core.events import CallFinished
from fusion.core.result import Cost, Receipt, ReceiptLine, Spent, Times
from fusion.core.types import Usage, Waited
from tests.cli.conftest import ONE, Command, environment, start
from tests.cli.conftest import command as command
from tests.provider import Answer, Provider

BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
LINE = ReceiptLine(stage="work", role="bulk", model="x/small", calls=2, price_source="litellm")


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        (Times(), "41 s"),
        (Times(model=40.98, own=0.02), "41 s"),
        (Times(model=32, slot=6, pause=3), "41 s (models 32 s, slots 6.0 s, pauses 3.0 s)"),
        (Times(model=32, library=4.5, budget=4.5), "41 s (models 32 s, loading 4.5 s, budget 4.5 s)"),
        (Times(model=32, failed=8, own=1), "41 s (models 32 s, failed attempts 8.0 s, other 1.0 s)"),
        (Times(own=41), "41 s (other 41 s)"),
    ],
)
def test_the_receipt_says_where_the_time_went(times: Times, shown: str) -> None:
    receipt = Receipt(lines=(LINE,), seconds=41, times=times)
    assert receipt_rows(receipt, {})[-1].endswith(f"; {shown}")


@pytest.mark.parametrize(
    ("usage", "saved", "shown"),
    [
        (Usage(input=100, output=5), "0", "100 tokens in, 5 out; $0.0000 measured; "),
        (Usage(input=2000, cached_read=1500), "0.5", "2,000 tokens in (1,500 from caches), 0 out; $0.0000 measured"),
        (
            Usage(input=2000, cache_write=1500),
            "-0.25",
            "(1,500 written to them), 0 out; $0.0000 measured, caches cost",
        ),
        (Usage(input=9000, cached_read=1, cache_write=2), "0", "(1 from caches, 2 written to them), 0 out"),
        (Usage(input=2000, cached_read=1500), "0.00001", ", caches saved <$0.0001; "),
    ],
)
def test_the_receipt_says_what_prompt_caches_gave(usage: Usage, saved: str, shown: str) -> None:
    line = LINE.model_copy(update={"measured": Spent(usage=usage), "cached": Decimal(saved)})
    assert shown in receipt_rows(Receipt(lines=(line,), seconds=1), {})[-1]


def test_the_receipt_says_the_time_that_reused_calls_saved() -> None:
    line = LINE.model_copy(update={"reused": 3, "saved": Spent(cost=Cost(usd=Decimal("0.5")))})
    assert "3 reused (saved $0.5000 and 4.0 s)" in receipt_rows(Receipt(lines=(line,), saved_seconds=4), {})[-1]


@pytest.mark.parametrize(
    ("waited", "shown"),
    [
        (None, "1.0 s"),
        (Waited(slot=0.01), "1.0 s"),
        (Waited(slot=4), "1.0 s, waited 4.0 s (slots)"),
        (Waited(library=2, pause=1), "1.0 s, waited 3.0 s (loading 2.0 s, pauses 1.0 s)"),
        (Waited(budget=3, failed=0.04), "1.0 s, waited 3.0 s (budget)"),
    ],
)
def test_a_call_is_shown_with_its_waits(waited: Waited | None, shown: str) -> None:
    event = CallFinished(
        stage="work", step="work", role="bulk", asked="x/small", served="x/small", digest="d", usage=Usage(),
        cost=Decimal(0), latency=1.0, first_token=None, finish_reason="stop", waited=waited,
    )  # fmt: skip
    assert str(call_line(event)).endswith(f", {shown}")


def details(*calls: CallLine) -> RunDetails:
    run = RunSummary(
        run_id="r", status="ok", pipeline="p", profile="local", started=BEGAN, ended=BEGAN + timedelta(seconds=9),
        seconds=9, cost=Cost(), calls=1, sessions=1, tags={}, parent=None, content="full", failure=None,
    )  # fmt: skip
    stage = StageLine(stage="work", kind="map", status="ok", started=BEGAN, seconds=8.0, calls=len(calls))
    return RunDetails(
        run=run, receipt=Receipt(), models=(), stages=(stage,), calls=calls, failed=(), notes=()
    )  # fmt: skip


def a_call(waited: Waited | None, latency: float | None, seconds: float = 8.0) -> CallLine:
    return CallLine(
        number=1, stage="work", item=0, step="work", role="bulk", asked="x/small", state="finished", started=BEGAN,
        seconds=seconds, latency=latency, waited=waited, usage=Usage(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("waited", "latency", "share"),
    [
        (None, 8.0, 0.0),
        (None, None, 0.0),
        (Waited(slot=4), 4.0, 0.5),
        (Waited(pause=5, failed=1), 2.0, 0.75),
        (Waited(library=8), 0.0, 1.0),
    ],
)
def test_the_bar_of_a_call_is_dotted_while_it_waits(
    waited: Waited | None, latency: float | None, share: float
) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(timeline_table(details(a_call(waited, latency)), 100))
    file = console.file
    assert isinstance(file, io.StringIO)
    bar = next(line for line in file.getvalue().splitlines() if "1/work" in line)
    dots, strokes = bar.count("·"), bar.count("─")
    assert dots == pytest.approx(share * (dots + strokes), abs=1)


def test_a_timeline_of_figures_names_the_waits() -> None:
    lines = timeline_lines(details(a_call(Waited(slot=4), 4.0)))
    assert lines[-1].split("  ")[-1] == "x/small, 4.0 s, waited 4.0 s (slots)"


def test_a_run_is_shown_with_its_waits_while_it_runs_and_later(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [RateLimitError("slow down", retry_after=0.2), "yes"]
    models = {"scripted/slow": ScriptedModel(script, name="scripted/slow")}
    monkeypatch.setattr(client.Fusion, "__init__", functools.partialmethod(client.Fusion.__init__, models=models))
    (tmp_path / "test.yaml").write_text(ONE)
    done = command("run", str(tmp_path / "test.yaml"), "x", "-m", "scripted/slow", "-v")
    assert done.code == 0, done.err
    assert "waited 0." in done.err
    assert "pauses 0." in done.err
    shown = json.loads(command("runs", "show", "latest", "--json").out)
    assert shown["calls"][0]["waited"]["pause"] >= 0.2
    assert shown["receipt"]["times"]["pause"] >= 0.2
    assert "waited 0." in command("runs", "show", "latest").out
    exported = json.loads(command("runs", "export", "latest").out)
    assert exported["calls"][0]["waited"]["pause"] >= 0.2


def test_the_first_call_of_a_process_says_what_loading_took() -> None:
    with Provider(Answer("hello", delay=0.1)) as provider:
        more = {"OPENAI_API_KEY": "sk-of-a-test", "OPENAI_BASE_URL": provider.url}
        process = start(
            "run", "single", "hi", "-m", "openai/gpt-4o", "--events", "--no-store", env=environment(**more)
        )
        said, _ = process.communicate(timeout=60)
    events = [json.loads(line) for line in said.splitlines()]
    (finished,) = (event for event in events if event["type"] == "call_finished")
    assert finished["waited"]["library"] > 0.02
    assert finished["latency"] >= 0.1
