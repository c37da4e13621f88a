"""loop: gates, tools and verification in a body, and rounds in the views."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fusion import Fusion, Request
from fusion.cli.views.live.plain import Plain
from fusion.cli.views.live.terminal import LiveView
from fusion.client.history import History
from fusion.core.events import EventBase, RoundStarted, RunStarted, StageFinished, StageStarted
from fusion.server.page.board import Board
from fusion.server.runs.progress import Progress
from tests.conftest import pipeline, run, said
from tests.stages.hands.doubles import Recorded

ASKED = """
inputs: {task: {}}
stages:
  again:
    kind: loop
    max: 3
    body:
      draft: {kind: generate, role: bulk, prompt: "Draft {{ loop.round }} {{ loop.wish or '' }}"}
      ask: {kind: gate, show: draft, ask: {good: boolean, wish: string}}
    until: ask.data.good
    carry: {wish: ask.data.wish}
    output: draft
output: again
"""


def test_a_gate_in_a_body_waits_in_each_round_and_nothing_is_paid_twice(fusion: Any, tmp_path: Path) -> None:
    asked: list[str] = []

    def bulk(request: Request) -> str:
        asked.append(said(request))
        return said(request)

    person = fusion({"bulk": bulk}, store=tmp_path / "runs.db")
    first = person.complete("it", pipeline=pipeline(ASKED))
    assert (first.status, [gate.stage for gate in first.waiting]) == ("waiting", ["again/1/ask"])
    second = person.approve(first.run_id, data={"good": False, "wish": "longer"}, by="ada")
    assert (second.status, [gate.stage for gate in second.waiting]) == ("waiting", ["again/2/ask"])
    third = person.approve(first.run_id, data={"good": True, "wish": ""}, by="ada")
    assert (third.status, third.text) == ("ok", "Draft 2 longer")
    assert asked == ["Draft 1", "Draft 2 longer"]


def test_a_tool_in_a_body_is_called_once_for_each_round(fusion: Any, tmp_path: Path) -> None:
    text = """
inputs: {task: {}}
stages:
  again:
    kind: loop
    max: 3
    body:
      found: {kind: tool, tool: act, arguments: {q: loop.round}}
    until: loop.round == 2
output: again
"""
    tool = Recorded("act", effect="write", parameters={"type": "object", "properties": {"q": {"type": "integer"}}})
    with Fusion(profile="local", tools=[tool], store=tmp_path / "runs.db") as one:
        result, _ = run(one, pipeline=pipeline(text))
    assert result.error is None
    assert [one["q"] for one in tool.calls] == [1, 2]


def test_a_verification_in_a_body_knows_the_writer_beside_it(fusion: Any) -> None:
    text = """
inputs: {task: {}}
stages:
  again:
    kind: loop
    max: 2
    body:
      draft: {kind: generate, role: bulk, prompt: "Draft {{ loop.round }}"}
      check: {kind: verify, value: draft, check: {contains: good}, attempts: 1}
    until: check.passed
    output: check
output: again
"""
    answers = ["bad", "worse", "bad again", "good"]
    result, _ = run(fusion({"bulk": answers}), pipeline=pipeline(text))
    assert (result.error, result.text) == (None, "good")
    assert result.stages["again"].decision == "round-2"


EVENTS: list[EventBase] = [
    RunStarted(run_id="r", pipeline="p", profile="local", roles={"bulk": "x/small"}, stages={"again": "loop"}),
    StageStarted(stage="again", kind="loop"),
    RoundStarted(stage="again", number=1, most=4),
    StageStarted(stage="again/1/draft", kind="generate"),
    StageFinished(stage="again/1/draft", kind="generate", status="ok", seconds=1.0),
    RoundStarted(stage="again", number=2, most=4),
]


def test_plain_lines_tell_the_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    view = Plain(verbose=False)
    for event in EVENTS:
        view.show(event)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "again: started (loop)",
        "again: round 1 of 4",
        "again/1/draft: started (generate)",
        "again/1/draft: ok, 1.0 s",
        "again: round 2 of 4",
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_view_shows_the_round(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    view = LiveView(verbose=False, clock=lambda: 1.0, console=console)
    for event in EVENTS:
        view.show(event)
    with console.capture() as captured:
        console.print(view.frame())
    assert "round 2 of 4" in captured.get()


def test_the_page_and_the_history_know_the_rounds(fusion: Any, tmp_path: Path) -> None:
    text = """
inputs: {task: {}}
stages:
  again:
    kind: loop
    max: 3
    body: {draft: {kind: generate, role: bulk, prompt: "Draft {{ loop.round }}"}}
    until: loop.round == 2
output: again
"""
    made = fusion({"bulk": "x"}, store=tmp_path / "runs.db")
    result, _ = run(made, pipeline=pipeline(text))
    made.store.flush()
    row = made.store.run(result.run_id)
    board = Board(made.store, row, Progress(), {"again": "loop"})
    board.refresh()
    assert board.state()["stages"]["again"]["round"] == (2, 3)
    details = History(made.store).show(result.run_id)
    assert [line.stage for line in details.stages] == ["again", "again/1/draft", "again/2/draft"]
