"""gate: a person approves, edits or answers; the run waits without a process, and pays nothing twice."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, PipelineError, RunFailed, UsageError
from fusion.core.errors import GateError, Waits
from fusion.core.events import GateAnswered, GateOpened, RunFinished, StageFinished
from fusion.core.types import Gate, Request
from fusion.stages.items import gathered
from fusion.store.gates import gates_of
from tests.conftest import pipeline, run, said

LETTER = """
inputs: {task: What to write.}
stages:
  draft: {kind: generate, role: frontier, prompt: "Write: {{ inputs.task }}"}
  aside: {kind: generate, role: bulk, prompt: "Note on {{ inputs.task }}"}
  approval: {kind: gate, show: draft%s}
  sent: {kind: generate, role: frontier, needs: [aside], prompt: "Send: {{ approval.text }} ({{ approval.by }})"}
output: sent
"""
DAY = 86400.0


class Calls:
    """Scripted models that count their calls."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, request: Request) -> str:
        self.said.append(said(request))
        return f"answer to {said(request).splitlines()[-1]}"


class Clock:
    """The wall clock of the machine, to be moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead)


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def person(fusion: Any, calls: Calls, tmp_path: Path) -> Any:
    """A Fusion with a store, on models that count their calls."""
    return fusion({"frontier": calls, "bulk": calls}, store=tmp_path / "runs.db")


def waits(fusion: Fusion, options: str = "", text: str = LETTER, **more: Any) -> Any:
    """Start a run; return the Result of one that waits."""
    result = fusion.complete("a letter", pipeline=pipeline(text % options if "%s" in text else text), **more)
    assert result.status == "waiting", result
    return result


def test_all_else_runs_then_the_run_waits(person: Any, calls: Calls) -> None:
    result, events = run(person, "a letter", pipeline=pipeline(LETTER % ""))
    assert result.status == "waiting"
    assert result.text == ""
    assert result.data is None
    assert {name: stage.status for name, stage in result.stages.items()} == {
        "draft": "ok", "aside": "ok", "approval": "waiting", "sent": "waiting",
    }  # fmt: skip
    (gate,) = result.waiting
    assert (gate.place, gate.ask, gate.text) == ("approval", "approve", "answer to Write: a letter")
    assert len(calls.said) == 2
    kinds = [type(event) for event in events]
    assert kinds.count(GateOpened) == 1
    assert isinstance(events[-1], RunFinished)
    assert events[-1].status == "waiting"
    assert {event.stage: event.status for event in events if isinstance(event, StageFinished)}["sent"] == "waiting"
    assert person.runs.find(result.run_id).status == "waiting"
    assert not person.store.is_locked(result.run_id)


def test_an_approval_goes_on_and_pays_nothing_twice(person: Any, calls: Calls) -> None:
    waiting = waits(person)
    events: list[Any] = []
    result = person.approve(waiting.run_id, by="maria", on_event=events.append)
    assert result.status == "ok"
    assert result.run_id == waiting.run_id
    assert result.text.endswith("Send: answer to Write: a letter (maria)")
    assert len(calls.said) == 3
    assert result.receipt.calls == 3
    (answered,) = [event for event in events if isinstance(event, GateAnswered)]
    assert (answered.by, answered.answer, answered.via) == ("maria", "approved", "python")
    assert result.stages["approval"].decision == "approved"
    assert "maria" in result.stages["approval"].reason
    (one,) = gates_of(person.store, result.run_id)
    assert one.answer is not None
    assert one.answer.by == "maria"
    assert one.answer.at.utcoffset() == timedelta()


def test_a_waiting_run_that_is_resumed_still_waits_and_costs_nothing(person: Any, calls: Calls) -> None:
    waiting = waits(person)
    again = person.resume(waiting.run_id)
    assert again == waiting
    assert len(calls.said) == 2
    assert person.runs.find(waiting.run_id).sessions == 1


@pytest.mark.parametrize(
    ("options", "answer", "sees", "verdict"),
    [
        ("", {}, "answer to Write: a letter", "approved"),
        (", ask: edit", {}, "answer to Write: a letter", "approved"),
        (", ask: edit", {"text": "My own words."}, "My own words.", "edited"),
        (", ask: edit", {"text": ""}, "", "edited"),
        (", ask: {tone: string, pages: integer}", {"data": {"tone": "warm", "pages": 2}}, '"warm"', "answered"),
        (", ask: {ok: [yes, later]}", {"data": {"ok": "later"}}, '{"ok": "later"}', "answered"),
    ],
)
def test_later_stages_read_the_answer(
    person: Any, calls: Calls, options: str, answer: Any, sees: str, verdict: str
) -> None:
    waiting = waits(person, options)
    result = person.approve(waiting.run_id, **answer)
    assert (result.status == "ok" and f"Send: {sees}" in calls.said[-1]) or sees in calls.said[-1]
    assert result.stages["approval"].decision == verdict


@pytest.mark.parametrize("reason", [None, "too long", "über, 'quoted'\nand two lines"])
def test_a_no_ends_the_run(person: Any, calls: Calls, reason: str | None) -> None:
    waiting = waits(person)
    with pytest.raises(RunFailed) as failed:
        person.approve(waiting.run_id, yes=False, text=reason, by="ole")
    assert failed.value.exit_code == 3
    assert failed.value.result.error is not None
    assert failed.value.result.error.reason == "StageError"
    assert failed.value.result.error.message == "rejected by ole" + (f": {reason}" if reason else "")
    with pytest.raises(RunFailed, match="rejected by ole"):
        person.resume(waiting.run_id)
    assert len(calls.said) == 2


SURVIVED = """  last: {kind: render, template: "{{ sent }}", on_error: skip, default: nothing}
output: {aside: aside, sent: last}"""


def test_a_no_may_be_survived(person: Any) -> None:
    text = (LETTER % ", on_error: skip").replace("output: sent", SURVIVED)
    waiting = waits(person, text=text)
    result = person.approve(waiting.run_id, yes=False, by="ole")
    assert result.status == "partial"
    assert result.data == {"aside": "answer to Note on a letter", "sent": "nothing"}
    assert {name: one.status for name, one in result.stages.items()}["sent"] == "skipped"


@pytest.mark.parametrize(
    ("options", "answer", "message"),
    [
        ("", {"text": "mine"}, "takes no other text"),
        ("", {"data": {"a": 1}}, "takes no data"),
        ("", {"yes": False, "data": {"a": 1}}, "a no takes no data"),
        (", ask: edit", {"data": {"a": 1}}, "takes no data"),
        (", ask: edit", {"text": "x" * 20_001}, "too long"),
        (", ask: {pages: integer}", {}, "asks for data"),
        (", ask: {pages: integer}", {"text": "two"}, "not for a text"),
        (", ask: {pages: integer}", {"data": {"pages": "two"}}, "do not match the schema"),
        (", ask: {pages: integer}", {"data": {"pages": 2, "more": 1}}, "do not match the schema"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_and_the_gate_stays_open(
    person: Any, options: str, answer: Any, message: str
) -> None:
    waiting = waits(person, options)
    with pytest.raises(GateError, match=message):
        person.approve(waiting.run_id, **answer)
    assert person.resume(waiting.run_id).status == "waiting"


def test_the_first_of_two_answers_wins_and_the_second_is_told(person: Any, fusion: Any, tmp_path: Path) -> None:
    waiting = waits(person)
    other = fusion({}, store=tmp_path / "runs.db")
    assert other.answer(waiting.run_id, by="ole", yes=False).by == "ole"
    with pytest.raises(GateError, match=r"'approval' of run '.*' is rejected by ole at 20") as second:
        person.approve(waiting.run_id, by="maria")
    assert second.value.winner is not None
    assert second.value.winner.by == "ole"
    assert second.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "then"),
    [
        (", timeout: 3d, default: approve", "Send: answer to Write: a letter (timeout)"),
        (", timeout: 259200, default: approve, ask: edit", "Send: answer to Write: a letter (timeout)"),
        (", timeout: 1d12h, default: {pages: 3}, ask: {pages: integer}", 'Send: {"pages": 3} (timeout)'),
        (", timeout: 90m, default: reject", None),
        (", timeout: 1w, default: reject, ask: {pages: integer}", None),
    ],
)
def test_the_default_holds_after_the_deadline(
    person: Any, calls: Calls, clock: Clock, options: str, then: str | None
) -> None:
    waiting = waits(person, options)
    assert person.resume(waiting.run_id).status == "waiting"
    clock.ahead = 8 * DAY
    if then is None:
        with pytest.raises(RunFailed, match="rejected by timeout"):
            person.resume(waiting.run_id)
    else:
        assert person.resume(waiting.run_id).text.endswith(then)
    (one,) = gates_of(person.store, waiting.run_id)
    assert one.answer is not None
    assert (one.answer.by, one.answer.via) == ("timeout", "timeout")


@pytest.mark.parametrize("ahead", [-400 * DAY, -DAY, 0.0, 2.9 * DAY])
def test_the_deadline_is_that_of_the_wall_clock(person: Any, clock: Clock, ahead: float) -> None:
    waiting = waits(person, ", timeout: 3d, default: reject")
    clock.ahead = ahead
    assert person.resume(waiting.run_id).status == "waiting"
    assert person.approve(waiting.run_id).status == "ok"


def test_a_person_who_was_first_wins_against_the_deadline(person: Any, clock: Clock) -> None:
    waiting = waits(person, ", timeout: 1h, default: reject")
    person.answer(waiting.run_id, by="maria")
    clock.ahead = DAY
    assert person.resume(waiting.run_id).text.endswith("(maria)")


def test_an_edited_pipeline_opens_a_gate_anew_if_its_text_has_changed(person: Any, calls: Calls) -> None:
    done = person.approve(waits(person).run_id, by="maria")
    same = pipeline((LETTER % "").replace("Send:", "Send now:"))
    assert person.resume(done.run_id, pipeline=same).text.endswith("Send now: answer to Write: a letter (maria)")
    other = pipeline((LETTER % "").replace("Write:", "Write shortly:"))
    changed = person.resume(done.run_id, pipeline=other)
    assert changed.status == "waiting"
    assert changed.waiting[0].text == "answer to Write shortly: a letter"
    form = pipeline(LETTER % ", ask: edit")
    assert person.resume(done.run_id, pipeline=form).status == "waiting"


def test_a_no_holds_for_its_own_run_only(person: Any) -> None:
    waiting = waits(person)
    with pytest.raises(RunFailed):
        person.approve(waiting.run_id, yes=False)
    again = person.resume(waiting.run_id, pipeline=pipeline(LETTER % ""))
    assert again.status == "waiting"
    assert again.run_id != waiting.run_id
    assert person.approve(again.run_id).status == "ok"


SEVERAL = """
inputs: {task: What to write.}
stages:
  one: {kind: gate, show: "Begin {{ inputs.task }}?", title: Begin?, who: the office}
  two: {kind: gate, show: inputs.task, ask: edit}
  sent: {kind: generate, role: bulk, prompt: "{{ one }} {{ two }}"}
output: sent
"""


def test_several_gates_are_answered_by_name(person: Any) -> None:
    waiting = waits(person, text=SEVERAL)
    assert [(gate.place, gate.title, gate.who) for gate in waiting.waiting] == [
        ("one", "Begin?", "the office"), ("two", "", ""),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="waits at 2 gates; name one of them: one, two"):
        person.approve(waiting.run_id)
    with pytest.raises(UsageError, match="no gate 'tow'; did you mean 'two'"):
        person.approve(waiting.run_id, "tow")
    assert [gate.place for gate in person.approve(waiting.run_id, "two", text="b").waiting] == ["one"]
    assert person.approve(waiting.run_id).text.endswith("Begin a letter? b")
    with pytest.raises(GateError, match=r"'one' of run .* is approved by"):
        person.approve(waiting.run_id, "one")


ROUTED = """
inputs: {rows: {format: csv}}
stages:
  drafts: {kind: map, over: inputs.rows, role: bulk, prompt: "Draft {{ item.source.name }}"}
  checked:
    kind: route
    over: drafts
    routes:
      dear: {kind: gate, show: "{{ item.source.name }}: {{ item.value }}", ask: edit}
      cheap: {kind: render, template: "{{ item.value }}"}
    rules: [{when: "item.source.amount | int > 100", use: dear}]
    default: cheap
  notes: {kind: map, over: checked, role: frontier, prompt: "Note on {{ item.value }}"}
output: notes
"""
ROWS = "name,amount\na,5\nb,500\nc,7\nd,900\n"


def test_a_gate_within_a_route_waits_for_its_items_alone(person: Any, calls: Calls, tmp_path: Path) -> None:
    result = person.complete(None, pipeline=pipeline(ROUTED), inputs={"rows": ROWS})
    assert result.status == "waiting"
    assert [(gate.place, gate.text) for gate in result.waiting] == [
        ("checked/dear/2", "b: answer to Draft b"),
        ("checked/dear/4", "d: answer to Draft d"),
    ]
    assert len(calls.said) == 6, "four drafts, and notes on the two without a gate"
    with pytest.raises(UsageError, match="name one of them: checked/dear/2, checked/dear/4"):
        person.approve(result.run_id, "checked/dear")
    half = person.approve(result.run_id, "checked/dear/4", text="mine")
    assert half.status == "waiting"
    assert len(calls.said) == 7
    done = person.approve(result.run_id)
    assert done.status == "ok"
    assert len(calls.said) == 8
    assert [item.source["name"] for item in done.items] == ["a", "b", "c", "d"]
    assert done.items[3].value == "answer to Note on mine"


def test_a_no_to_an_item_fails_that_item(person: Any, tmp_path: Path) -> None:
    result = person.complete(None, pipeline=pipeline(ROUTED), inputs={"rows": ROWS})
    person.approve(result.run_id, "checked/dear/2", yes=False, by="ole")
    done = person.approve(result.run_id)
    assert done.status == "partial"
    assert [item.ok for item in done.items] == [True, False, True, True]
    assert done.failed[0].failure.message == "rejected by ole"
    assert done.failed[0].item == 1


BATCHED = ROUTED.replace(
    "output: notes", "  reviewed: {kind: review, over: notes, batch: 3, role: judge}\noutput: reviewed"
)


def test_batches_of_neighbours_wait_for_their_missing_items(fusion: Any, calls: Calls, tmp_path: Path) -> None:
    verdicts: list[int] = []

    def judge(request: Request) -> Any:
        count = said(request).count("answer to Note on")
        verdicts.append(count)
        one = {"issues": [], "verdict": "accept"}
        if "verdicts" not in str(request.json_schema):
            return one
        return {"verdicts": [{"number": n + 1, **one} for n in range(count)]}

    person = fusion({"frontier": calls, "bulk": calls, "judge": judge}, store=tmp_path / "runs.db")
    result = person.complete(None, pipeline=pipeline(BATCHED), inputs={"rows": ROWS})
    assert result.status == "waiting"
    assert verdicts == []
    person.approve(result.run_id, "checked/dear/2")
    assert len(verdicts) == 1
    assert person.approve(result.run_id).status == "ok"
    assert len(verdicts) == 2


NESTED = """
inputs: {task: What to write.}
stages:
  before: {kind: generate, role: bulk, prompt: "Before {{ inputs.task }}"}
  inner: {kind: pipeline, pipeline: inner.yaml, inputs: {task: before}}
  after: {kind: generate, role: bulk, prompt: "After {{ inner }}"}
output: after
"""


def test_a_gate_in_a_nested_pipeline(person: Any, calls: Calls, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(LETTER % ", ask: edit")
    (tmp_path / "outer.yaml").write_text(NESTED)
    result = person.complete("it", pipeline=tmp_path / "outer.yaml")
    assert result.status == "waiting"
    assert [gate.place for gate in result.waiting] == ["inner/approval"]
    assert result.stages["inner"].status == "waiting"
    assert result.stages["after"].status == "waiting"
    assert len(calls.said) == 3
    done = person.approve(result.run_id, "inner/approval", text="mine")
    assert done.status == "ok"
    assert done.text.startswith("answer to After answer to Send: mine")
    assert len(calls.said) == 5


EACH = """
inputs: {names: {default: [a, b, c]}}
stages:
  each:
    kind: route
    over: inputs.names
    routes: {inner: {kind: pipeline, pipeline: inner.yaml, inputs: {task: item.value}}}
    rules: [{longer: 0, use: inner}]
    default: inner
output: each
"""


def test_a_gate_in_a_pipeline_for_each_item(person: Any, calls: Calls, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(LETTER % "")
    (tmp_path / "each.yaml").write_text(EACH)
    result = person.complete(None, pipeline=tmp_path / "each.yaml")
    places = [gate.place for gate in result.waiting]
    assert len(set(places)) == 3, places
    assert len(calls.said) == 6
    for place in places:
        result = person.approve(result.run_id, place)
    assert result.status == "ok"
    assert len(calls.said) == 9


@pytest.mark.parametrize(
    ("show", "text", "data"),
    [
        ("draft", "answer to Draft", None),
        ("draft.text", "answer to Draft", None),
        ("inputs.rows", '[\n  1,\n  "é"\n]', [1, "é"]),
        ("picked.data", '{\n  "a": 1\n}', {"a": 1}),
        ('"{{ draft }}, {{ inputs.rows | length }}"', "answer to Draft, 2", None),
        ("items", '[\n  "answer to 1",\n  "answer to é"\n]', ["answer to 1", "answer to é"]),
    ],
)
def test_what_is_shown(person: Any, show: str, text: str, data: Any) -> None:
    source = f"""
inputs: {{rows: {{default: [1, é]}}}}
stages:
  draft: {{kind: generate, role: bulk, prompt: Draft}}
  picked: {{kind: render, parse: json, template: '{{"a": 1}}'}}
  results: {{kind: map, over: inputs.rows, role: bulk, prompt: "{{{{ item.value }}}}"}}
  ask: {{kind: gate, show: {show.replace("items", "results")}, ask: edit}}
output: {{text: ask.text, others: 'draft ~ picked ~ (results | length)'}}
"""
    waiting = person.complete(None, pipeline=pipeline(source))
    assert waiting.waiting[0].text == text
    assert person.approve(waiting.run_id).data["text"] == text
    assert waiting.waiting[0].is_data is (data is not None)


def test_edited_data_are_data_again(person: Any) -> None:
    source = """
inputs: {rows: {default: [1, 2]}}
stages:
  ask: {kind: gate, show: inputs.rows, ask: edit}
output: {first: "ask.data[0]"}
"""
    waiting = person.complete(None, pipeline=pipeline(source))
    with pytest.raises(GateError, match="not JSON"):
        person.approve(waiting.run_id, text="[3, 4")
    assert person.approve(waiting.run_id, text="[3, 4]").data == {"first": 3}


def test_a_program_may_answer_at_once(fusion: Any, calls: Calls) -> None:
    """Without a store, too: the function of the program is the person."""
    asked: list[Gate] = []

    def on_gate(gate: Gate) -> str:
        asked.append(gate)
        return "mine"

    result = fusion({"frontier": calls, "bulk": calls}).complete(
        "a letter", pipeline=pipeline(LETTER % ", ask: edit"), on_gate=on_gate
    )
    assert result.status == "ok"
    assert "Send: mine" in result.text
    assert len(asked) == 1


@pytest.mark.parametrize(("said_", "status"), [(True, "ok"), (False, "failed"), (None, "waiting")])
def test_answers_of_a_program(person: Any, said_: Any, status: str) -> None:
    result, _ = run(person, "a letter", pipeline=pipeline(LETTER % ""), on_gate=lambda gate: said_)
    assert result.status == status


def test_without_a_store_a_gate_is_refused_before_any_call(fusion: Any, calls: Calls, tmp_path: Path) -> None:
    for options in ({}, {"store": tmp_path / "runs.db", "content": "digest"}):
        one = fusion({"frontier": calls, "bulk": calls}, **options)
        with pytest.raises(UsageError, match=r"stages\.approval asks a person.*keep the run"):
            one.complete("a letter", pipeline=pipeline(LETTER % ""))
    assert calls.said == []


def test_a_failure_elsewhere_fails_the_run_and_the_gate_stays_open(fusion: Any, tmp_path: Path) -> None:
    fails = [True]

    def frontier(request: Request) -> str:
        if fails and "Note" in said(request):
            raise RuntimeError("out of order")
        return "done"

    one = fusion({"frontier": lambda request: "done", "bulk": frontier}, store=tmp_path / "runs.db")
    with pytest.raises(RunFailed) as failed:
        one.complete("a letter", pipeline=pipeline(LETTER % ""))
    assert failed.value.result.status == "failed"
    assert failed.value.result.waiting == ()
    fails.clear()
    assert one.resume(failed.value.result.run_id).status == "waiting"
    assert one.approve(failed.value.result.run_id).status == "ok"


def test_the_time_of_waiting_is_no_time_of_the_run(person: Any, clock: Clock) -> None:
    waiting = waits(person, text=LETTER.replace("stages:", "budget: {seconds: 60}\nstages:", 1) % "")
    clock.ahead = 30 * DAY
    result = person.approve(waiting.run_id)
    assert result.status == "ok"
    assert result.seconds < 60


@pytest.mark.parametrize(
    ("gate", "where", "message"),
    [
        ("{kind: gate}", "stages.ask", "show"),
        ("{kind: gate, show: other}", "stages.ask.show", "no stage or input 'other'|unknown|other"),
        ("{kind: gate, show: inputs.task, ask: maybe}", "stages.ask.ask", "approve, edit, or a schema"),
        ("{kind: gate, show: inputs.task, ask: {a: nothing}}", "stages.ask.ask", "nothing"),
        ("{kind: gate, show: inputs.task, timeout: 3d}", "stages.ask", "`timeout` needs `default`"),
        ("{kind: gate, show: inputs.task, default: approve}", "stages.ask", "`default` needs `timeout`"),
        ("{kind: gate, show: inputs.task, timeout: soon, default: approve}", "stages.ask.timeout", "90m, 36h, 3d"),
        ("{kind: gate, show: inputs.task, timeout: -5, default: approve}", "stages.ask.timeout", "more than 0"),
        ("{kind: gate, show: inputs.task, timeout: 3d, default: perhaps}", "stages.ask", "approve or reject"),
        (
            "{kind: gate, show: inputs.task, ask: {pages: integer}, timeout: 3d, default: {pages: two}}",
            "stages.ask",
            "`default` is no answer",
        ),
    ],
)
def test_mistakes_are_named_with_their_place(gate: str, where: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "ask.yaml"
    file.write_text(f"inputs: {{task: A task.}}\nstages:\n  ask: {gate}\noutput: ask\n")
    with pytest.raises(PipelineError, match=message) as mistake:
        Fusion(profile="local").load(file)
    problem = mistake.value.problems[0]
    assert problem.where.startswith(where)
    assert problem.line == 3


def test_a_quote_supposes_that_the_person_approves(fusion: Any) -> None:
    quote = fusion().quote("a letter", pipeline=pipeline(LETTER % ", ask: {pages: integer}"))
    assert quote.calls.likely == 3
    assert next(stage for stage in quote.stages if stage.name == "approval").calls.high == 0


def test_a_deadline_is_in_utc(person: Any) -> None:
    (gate,) = waits(person, ", timeout: 36h, default: reject").waiting
    assert gate.deadline is not None
    assert gate.deadline.tzinfo is not None
    assert (gate.deadline - gate.since).total_seconds() == 36 * 3600
    assert abs((gate.since - datetime.now(UTC)).total_seconds()) < 60


LOOPED = """
inputs: {task: What to write.}
stages:
  rounds:
    kind: loop
    max: 3
    until: "check.text == 'good'"
    body:
      write: {kind: generate, role: bulk, prompt: "Write {{ inputs.task }}, round {{ loop.round }}"}
      check: {kind: gate, show: write, ask: edit}
    output: write
output: rounds
"""


def test_a_gate_in_each_round_of_a_loop(person: Any, calls: Calls) -> None:
    result = person.complete("it", pipeline=pipeline(LOOPED))
    places = []
    for text in ("better", "more", "good"):
        assert result.status == "waiting"
        places.append(result.waiting[0].place)
        result = person.approve(result.run_id, text=text)
    assert result.status == "ok"
    assert places == [f"rounds/{number}/check" for number in (1, 2, 3)]
    assert len(calls.said) == 3


@pytest.mark.anyio
async def test_what_runs_beside_a_question_is_not_cancelled() -> None:
    done: list[str] = []

    async def asks() -> str:
        raise Waits

    async def works() -> str:
        await asyncio.sleep(0)
        done.append("worked")
        return "result"

    with pytest.raises(Waits):
        await gathered([asks(), works(), works()])
    assert done == ["worked", "worked"]
