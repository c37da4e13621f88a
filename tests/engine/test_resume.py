"""Runs that end before their answer go on where they ended: nothing finished is asked or paid again."""

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import (
    Fusion,
    Model,
    ModelInfo,
    Price,
    Reply,
    Request,
    Result,
    RunFailed,
    Say,
    ScriptedModel,
    Settings,
    UsageError,
)
from fusion.client.client import sole_run
from fusion.client.history import History
from fusion.core.errors import ModelConnectionError, RunBusyError, StoreError
from fusion.core.events import CallFinished, EventBase, Noted
from fusion.core.types import Deltas
from fusion.engine.durable import before
from fusion.engine.receipt import Accounts
from fusion.store.base import Store
from fusion.store.open import open_store
from fusion.store.rows import RunFilter, Started
from tests.conftest import ACCEPT, FileStore, pipeline, plan_text, run, said, subtasks
from tests.processes import exit_code

CHAIN = pipeline("""
inputs: {task: What is to be done.}
stages:
  plan: {kind: plan, role: any, max_subtasks: 20}
  work: {kind: map, over: plan, role: any, concurrency: 4, prompt: "WORK {{ item.instructions }}"}
  polish: {kind: map, over: work, role: any, concurrency: 4, prompt: "POLISH {{ item }}"}
  answer: {kind: merge, over: polish, role: any}
output: answer
""")


LONG = "\n\n".join(f"Paragraph {number}. " + "word " * 900 for number in range(3))


class Stopping(Model):
    """A model that stops its run when it is asked for the n-th time, and remembers what it answered."""

    def __init__(self, script: Any, *, price: Price | None = None, delay: float = 0.0) -> None:
        self._model = ScriptedModel(
            script, name="stopping", price=price or Price(input=Decimal(0), output=Decimal(0))
        )
        self.info = self._model.info
        self.asked = 0
        self.answered: Counter[str] = Counter()
        self.stop_at: int | None = None
        self.stop: Callable[[], None] = lambda: None

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        self.asked += 1
        if self.asked == self.stop_at:
            self.stop()
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        reply = await self._model.complete(request, on_delta)
        assert request.key is not None
        self.answered[f"{request.key.stage} {request.key.item} {request.key.step} {said(request)}"] += 1
        return reply


def stopped_by(model: "Stopping | Sampling", fusion: Fusion, **options: Any) -> Result:
    """What a run has finished when its model stops it."""
    begun = threading.Event()

    def stop() -> None:
        begun.wait()
        handle.stop()

    model.stop = stop
    handle = fusion.start("do it", **options)
    begun.set()
    return handle.wait()


def interrupted_at(fusion: Fusion, model: Stopping, number: int, **options: Any) -> Result:
    """What was finished of a run that is stopped when its model is asked for this time."""
    model.stop_at = model.asked + number
    result = stopped_by(model, fusion, **options)
    model.stop_at = None
    return result


def planned(request: Request) -> Any:
    """Plans four parts, and says of everything else what it is."""
    words = said(request)
    if "You are the planner" in words:
        return plan_text(subtasks(4))
    if "You are the reviewer" in words:
        return ACCEPT
    first = next((line for line in words.splitlines() if line.startswith(("WORK", "POLISH"))), "")
    return f"({first})" if first else f"merged of {len(words)} characters"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "runs.db")
    yield opened
    opened.close()


# Nothing twice.


@pytest.mark.parametrize("number", range(1, 11))
def test_a_run_that_was_stopped_at_any_call_goes_on_there(number: int, store: Store) -> None:
    whole = run(Fusion(model=ScriptedModel(planned, name="stopping")), pipeline=CHAIN)[0]
    model = Stopping(planned)
    with Fusion(model=model, store=store) as fusion:
        first = interrupted_at(fusion, model, number, pipeline=CHAIN)
        assert first.status == "failed"
        before = sum(model.answered.values())
        again = fusion.resume(first.run_id)
    assert (again.status, again.text, again.run_id) == ("ok", whole.text, first.run_id)
    assert max(model.answered.values()) == 1
    assert before == sum(model.answered.values()) - (again.receipt.calls - before)
    assert [item.value for item in again.stages["polish"].items] == [
        item.value for item in whole.stages["polish"].items
    ]


@pytest.mark.parametrize(
    "name",
    ["fusion", "self-fusion", "vote", "agree-or-escalate", "route-by-difficulty", "map-reduce-document", "single"],
)
def test_every_shipped_pipeline_goes_on_at_any_call(name: str, store: Store) -> None:
    given = {"pipeline": name, "inputs": {"context": LONG} if name == "map-reduce-document" else {}}
    whole = run(Fusion(model=ScriptedModel(_any, name="stopping")), "the question", **given)[0]
    assert whole.status == "ok"
    for number in range(1, whole.receipt.calls + 1):
        model = Stopping(_any)
        with Fusion(model=model, store=store) as fusion:
            first = interrupted_at(fusion, model, number, **given)
            again = fusion.resume(first.run_id)
        assert (again.status, again.text) == ("ok", whole.text), number
        assert max(model.answered.values()) == 1, number


def _any(request: Request) -> Any:
    """An answer of the shape that is asked for."""
    words = json.dumps(request.json_schema or {})
    if "consensus" in words:
        empty = {name: [] for name in ("consensus", "contradictions", "partial_coverage", "unique_insights")}
        return _filled(request.json_schema) | empty | {"blind_spots": []}
    return _filled(request.json_schema) if request.json_schema else "Answer: 42"


def _filled(schema: Any) -> Any:
    """The least value of a JSON Schema."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: _filled(part) for name, part in schema.get("properties", {}).items()}
        case "array":
            return [_filled(schema["items"])] * schema.get("minItems", 0)
        case "number" | "integer":
            return schema.get("minimum", 0)
        case "boolean":
            return True
        case _:
            return "text"


def test_a_run_that_has_its_answer_gives_it_again(store: Store) -> None:
    model = Stopping(planned)
    with Fusion(model=model, store=store) as fusion:
        first = fusion.complete("do it", pipeline=CHAIN)
        asked = model.asked
        assert fusion.resume(first.run_id) == first
        assert fusion.resume(first.run_id[:18]).text == first.text
    assert model.asked == asked


def test_what_was_finished_is_told_as_finished_before(store: Store) -> None:
    model = Stopping(planned)
    with Fusion(model=model, store=store) as fusion:
        first = interrupted_at(fusion, model, 7, pipeline=CHAIN)
        events: list[EventBase] = []
        fusion.resume(first.run_id, on_event=events.append)
    reused = [event.reused for event in events if isinstance(event, CallFinished)]
    assert reused.count("journal") >= 3
    assert reused.count(None) == 10 - reused.count("journal")


# A plan that was still being written.


class Sampling(Model):
    """A planner that never says the same twice, and breaks off its stream where it is told to, for good."""

    def __init__(self) -> None:
        self.info = ModelInfo(id="sampling", provider="test", price=Price(input=Decimal(0), output=Decimal(0)))
        self.plans = 0
        self.worked: list[str] = []
        self.stop: Callable[[], None] | None = None
        self.shown = ""

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        words = said(request)
        if "You are the planner" not in words:
            text = f"done {words}" if words.startswith("WORK") else "merged"
            reply = await ScriptedModel(text, name="sampling").complete(request, on_delta)
            self.worked.append(words)
            return reply
        self.plans += 1
        self.shown = words
        parts = subtasks(5)
        for part in parts:
            part["instructions"] += f" of plan {self.plans}"
        accepted = re.search(r"Subtasks 1 to (\d+)", words)
        begun = int(accepted[1]) if accepted else 0
        text = plan_text(parts[begun:])
        assert on_delta is not None
        if self.stop is not None:
            cut = text.index("do part 3")
            on_delta.add(text[:cut])
            while len(self.worked) < 2:
                await asyncio.sleep(0)
            self.stop()
            await asyncio.Event().wait()
        on_delta.add(text)
        return await ScriptedModel(text, name="sampling").complete(request)


def test_subtasks_that_were_accepted_stay_and_the_planner_is_asked_for_the_rest(store: Store) -> None:
    model = Sampling()
    text = pipeline("""
inputs: {task: What is to be done.}
stages:
  plan: {kind: plan, role: any}
  work: {kind: map, over: plan, role: any, prompt: "WORK {{ item.instructions }}"}
  answer: {kind: merge, over: work, role: any}
output: answer
""")
    with Fusion(model=model, store=store) as fusion:
        first = stopped_by(model, fusion, pipeline=text)
        assert first.status == "failed"
        model.stop = None
        again = fusion.resume(first.run_id)
    assert again.status == "ok"
    told = [item.source["instructions"] for item in again.stages["plan"].items]
    assert told == ["do part 1 of plan 1", "do part 2 of plan 1", *(f"do part {n} of plan 2" for n in (3, 4, 5))]
    assert "Subtasks 1 to 2" in model.shown
    assert sum(words.startswith("WORK do part 1 ") for words in model.worked) == 1


# Runs that failed.


def test_what_failed_is_asked_again_and_what_was_finished_is_not(store: Store) -> None:
    down = [True]

    def script(request: Request) -> Any:
        words = said(request)
        if down[0] and "WORK do part 3" in words:
            return ModelConnectionError("out of reach")
        return planned(request)

    model = Stopping(script)
    strict = CHAIN.model_copy(
        update={"stages": {**CHAIN.stages, "work": CHAIN.stages["work"].model_copy(update={"min_ok": 4})}}
    )
    with Fusion(model=model, store=store) as fusion:
        failed, _ = run(fusion, pipeline=strict)
        assert failed.status == "failed"
        down[0] = False
        again = fusion.resume(failed.run_id)
    assert again.status == "ok"
    assert len(again.stages["polish"].items) == 4
    assert max(model.answered.values()) == 1


def test_a_reply_that_nobody_could_use_is_asked_for_anew_on_resume(store: Store) -> None:
    bad = [True]

    def script(request: Request) -> Any:
        return "no JSON at all" if bad[0] else {"total": 3}

    shaped = pipeline("""
stages: {answer: {kind: generate, role: any, schema: {total: integer}, prompt: "Add 1 and 2."}}
output: answer
""")
    model = Stopping(script)
    with Fusion(model=model, store=store) as fusion:
        failed, _ = run(fusion, None, pipeline=shaped)
        assert failed.status == "failed"
        assert model.asked == 2
        bad[0] = False
        again = fusion.resume(failed.run_id)
        assert again.data == {"total": 3}
        assert again.receipt.calls == 3  # the two that could not be used stay paid


# Money.

PRICED = Price(input=Decimal("0.00001"), output=Decimal("0.00001"))


def test_what_was_spent_before_counts_to_the_budget(store: Store) -> None:
    model = Stopping(planned, price=PRICED)
    with Fusion(model=model, store=store) as fusion:
        first = interrupted_at(fusion, model, 8, pipeline=CHAIN)
        again = fusion.resume(first.run_id)
        whole = fusion.complete("do it", pipeline=CHAIN)
    lost = sum((line.charged.cost.usd for line in again.receipt.lines), Decimal(0))
    assert lost > 0
    assert again.cost.usd == whole.cost.usd + lost
    assert first.cost.usd < again.cost.usd


def test_a_budget_is_not_begun_anew_by_resuming(store: Store) -> None:
    model = Stopping(planned, price=PRICED)
    with Fusion(model=model, store=store) as fusion:
        stopped, _ = run(fusion, pipeline=CHAIN, budget={"calls": 4})
        assert stopped.status == "failed"
        asked = model.asked
        again, _ = run_again(fusion, stopped.run_id)
        assert (again.status, again.error and again.error.reason) == ("failed", "BudgetError")
        assert model.asked == asked
        enough = fusion.resume(stopped.run_id, budget={"calls": 10})
    assert enough.status == "ok"
    assert enough.receipt.calls == 10
    assert max(model.answered.values()) == 1


def run_again(fusion: Fusion, run_id: str, **options: Any) -> tuple[Result, list[EventBase]]:
    events: list[EventBase] = []
    try:
        return fusion.resume(run_id, on_event=events.append, **options), events
    except RunFailed as failed:
        return failed.result, events


def test_a_stage_keeps_the_budget_of_its_own(store: Store) -> None:
    text = pipeline("""
inputs: {task: What is to be done.}
stages:
  plan: {kind: plan, role: any}
  work: {kind: map, over: plan, role: any, concurrency: 1, budget: {calls: 2}, prompt: "WORK {{ item.instructions }}"}
  answer: {kind: merge, over: work, role: any}
output: answer
""")
    model = Stopping(planned)
    with Fusion(model=model, store=store) as fusion:
        stopped, _ = run(fusion, pipeline=text)
        assert stopped.error is not None
        assert "'work'" in stopped.error.message
        asked = model.asked
        again, _ = run_again(fusion, stopped.run_id)
    assert again.error == stopped.error
    assert model.asked == asked


def asked_until_killed(path: Path, number: int, resume: bool) -> None:
    """Run a pipeline, or resume its run; the process is killed when its model is asked for the n-th time."""
    asked = 0

    def script(request: Request) -> Any:
        nonlocal asked
        asked += 1
        if asked == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return planned(request)

    with Fusion(model=ScriptedModel(script, name="stopping", price=PRICED), store=path) as fusion:
        if resume:
            fusion.resume(fusion.store.runs(RunFilter())[0].run_id)
        else:
            fusion.complete("do it", pipeline=CHAIN)


def test_a_process_that_is_killed_twice_is_charged_for_each_time_once(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    killed_at(path, 3)
    killed_at(path, 3, resume=True)
    with Fusion(model=Stopping(planned, price=PRICED), store=path) as fusion:
        (row,) = fusion.store.runs(RunFilter())
        again = fusion.resume(row.run_id)
        lost = [attempt for attempt, _ in fusion.store.attempts(row.run_id, states=["lost"])]
        assert {attempt.session for attempt in lost} == {1, 2}
        charged = sum((line.charged.cost.usd for line in again.receipt.lines), Decimal(0))
        assert charged == sum(attempt.usd or 0 for attempt in lost)
        spent = fusion.store.spending(row.run_id)
        assert sum((one.usd for one in spent.values()), Decimal(0)) == again.cost.usd
        _same_receipt(fusion.store, again)


def killed_at(path: Path, number: int, *, resume: bool = False) -> None:
    assert exit_code(asked_until_killed, path, number, resume) == -signal.SIGKILL


@pytest.mark.parametrize("number", [1, 2, 6, 10])
def test_a_process_that_is_killed_leaves_what_it_had(number: int, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    killed_at(path, number)
    model = Stopping(planned, price=PRICED)
    with Fusion(model=model, store=path) as fusion:
        (row,) = fusion.store.runs(RunFilter())
        assert row.status == "running"
        open_ones = sum(end is None for _, end in fusion.store.attempts(row.run_id))
        assert open_ones >= 1
        events: list[EventBase] = []
        again = fusion.resume(row.run_id, on_event=events.append)
        whole = fusion.complete("do it", pipeline=CHAIN)
        assert again.status == "ok"
        assert again.text == whole.text
        spent = fusion.store.spending(row.run_id)
    finished_before = sum(event.reused == "journal" for event in events if isinstance(event, CallFinished))
    assert finished_before == 10 - sum(event.reused is None for event in events if isinstance(event, CallFinished))
    lost = sum((line.charged.cost.usd for line in again.receipt.lines), Decimal(0))
    assert lost > 0
    assert sum((one.usd for one in spent.values()), Decimal(0)) == again.cost.usd == whole.cost.usd + lost


# Who may.


def test_one_run_is_run_by_one_at_a_time(store: Store) -> None:
    model = Stopping(planned)
    with Fusion(model=model, store=store) as fusion:
        first = interrupted_at(fusion, model, 5, pipeline=CHAIN)
        held = store.lock(first.run_id)
        with pytest.raises(RunBusyError, match=first.run_id):
            fusion.resume(first.run_id)
        held.release()
        assert fusion.resume(first.run_id).status == "ok"


def test_a_run_can_be_resumed_where_its_other_models_are_gone(store: Store) -> None:
    text = pipeline("""
inputs: {task: What is to be done.}
stages:
  work: {kind: generate, role: bulk, prompt: "WORK {{ inputs.task }}"}
  answer: {kind: generate, role: frontier, prompt: "Better: {{ work }}"}
output: answer
""")
    bulk, better = ScriptedModel("worked", name="bulk"), Stopping("better")
    with Fusion(roles={"bulk": bulk, "frontier": better}, store=store) as fusion:
        first = interrupted_at(fusion, better, 1, pipeline=text)
    with Fusion(model=better, store=store) as fusion:
        assert fusion.resume(first.run_id).text == "better"
    with Fusion(roles={"bulk": bulk, "frontier": better}, store=store) as fusion:
        second = interrupted_at(fusion, better, 1, pipeline=text)
    with Fusion(store=store) as fusion:
        gone, _ = run_again(fusion, second.run_id)
    assert gone.error is not None
    assert "was a Python object" in gone.error.message


def test_runs_that_are_not_there(store: Store) -> None:
    with Fusion(model=ScriptedModel("x"), store=store) as fusion, pytest.raises(UsageError, match="no run 'nobody'"):
        fusion.resume("nobody")
    with Fusion(model=ScriptedModel("x")) as fusion, pytest.raises(UsageError, match="not kept here"):
        fusion.resume("nobody")


# An edited pipeline.


def test_an_edited_stage_runs_again_and_nothing_else(store: Store) -> None:
    model = Stopping(planned)
    edited = CHAIN.model_copy(
        update={
            "stages": {
                **CHAIN.stages,
                "answer": CHAIN.stages["answer"].model_copy(update={"prompt": "Merge in other words: {{ items }}"}),
            }
        }
    )
    with Fusion(model=model, store=store) as fusion:
        first = fusion.complete("do it", pipeline=CHAIN, tags={"team": "search"})
        asked = model.asked
        second = fusion.resume(first.run_id, pipeline=edited)
        assert model.asked == asked + 1
        assert second.run_id != first.run_id
        assert (second.receipt.calls, second.receipt.reused) == (1, 9)
        assert second.tags == {"team": "search"}
        assert any(note.startswith("answer runs again: edited: prompt") for note in second.notes)
        assert any(note.startswith("work is reused from run") for note in second.notes)
        row = fusion.store.run(second.run_id)
        assert row is not None
        assert row.parent == first.run_id
        third = fusion.resume(second.run_id, pipeline=CHAIN)
        assert third.text == first.text
        assert model.asked == asked + 1


def test_an_edited_stage_in_the_middle_runs_again_with_what_reads_it(store: Store) -> None:
    model = Stopping(planned)
    work = CHAIN.stages["work"].model_copy(update={"prompt": "WORK anew {{ item.instructions }}"})
    edited = CHAIN.model_copy(update={"stages": {**CHAIN.stages, "work": work}})
    with Fusion(model=model, store=store) as fusion:
        first = fusion.complete("do it", pipeline=CHAIN)
        second = fusion.resume(first.run_id, pipeline=edited)
    assert (second.receipt.calls, second.receipt.reused) == (9, 1)


def test_a_template_that_was_edited_is_not_run_unless_it_is_asked_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts" / "mine").mkdir(parents=True)
    template = tmp_path / "prompts" / "mine" / "say.md.j2"
    template.write_text("Say it: {{ inputs.task }}")
    file = tmp_path / "two.yaml"
    file.write_text(
        "inputs: {task: What.}\nstages:\n  one: {kind: generate, role: any, prompt: mine/say}\n"
        '  two: {kind: generate, role: any, prompt: "Again: {{ one }}"}\noutput: two\n'
    )
    model = Stopping(lambda request: said(request).upper())
    with Fusion(model=model, store=store) as fusion:
        first = interrupted_at(fusion, model, 2, pipeline=file)
        template.write_text("Say it in other words: {{ inputs.task }}")
        again, events = run_again(fusion, first.run_id)
        assert again.text == "AGAIN: SAY IT: DO IT"
        assert any("edited since" in event.message for event in events if isinstance(event, Noted))
        new = fusion.resume(first.run_id, pipeline=file)
        assert new.text == "AGAIN: SAY IT IN OTHER WORDS: DO IT"
        assert any("one runs again: its template was edited: mine/say" in note for note in new.notes)


# Stragglers.


def test_a_straggler_that_was_given_up_is_not_asked_again(store: Store) -> None:
    asked: Counter[str] = Counter()

    def member(name: str, reply: Any) -> ScriptedModel:
        def script(request: Request) -> Any:
            asked[name] += 1
            return reply

        return ScriptedModel(script, name=name)

    text = pipeline("""
inputs: {task: What is to be done.}
stages:
  panel: {kind: panel, members: [one, two, slow], min_ok: 2, grace: 0.05}
  answer: {kind: generate, role: last, prompt: "{% for one in panel %}{{ one }} {% endfor %}"}
output: answer
""")
    last = Stopping("the answer")
    roles = {
        "one": member("one", "1"),
        "two": member("two", "2"),
        "slow": member("slow", Say("3", delay=30)),
        "last": last,
    }
    with Fusion(roles=roles, store=store) as fusion:
        first = interrupted_at(fusion, last, 1, pipeline=text)
        assert fusion.resume(first.run_id).text == "the answer"
    assert asked == {"one": 1, "two": 1, "slow": 1}


# What may be kept.


@pytest.mark.parametrize("content", ["digest", "off"])
def test_prompts_that_may_not_be_kept_are_not(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    model = Stopping("the secret answer, in full", price=PRICED)
    text = pipeline(
        'inputs: {task: x}\nstages: {a: {kind: generate, role: any, prompt: "Secretly {{ inputs.task }}"}}\noutput: a'
    )
    with Fusion(model=model, store=path, content=content) as fusion:
        first = interrupted_at(fusion, model, 1, pipeline=text)
        done = fusion.complete("the secret question", pipeline=text)
        with pytest.raises(StoreError, match="were not kept"):
            fusion.resume(first.run_id)
        row = fusion.store.run(done.run_id)
        assert row is not None
        assert row.usd == done.cost.usd > 0
        (call,) = fusion.store.calls(done.run_id)
        assert bool(call.text_digest) == (content == "digest")
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"secret" not in kept.lower()


@pytest.mark.parametrize("content", ["full", "digest", "off"])
def test_all_calls_are_counted_whatever_is_kept_of_them(content: Any, store: Store) -> None:
    text = pipeline("""
stages: {answer: {kind: generate, role: any, schema: {total: integer}, prompt: "Add 1 and 2."}}
output: answer
""")
    model = ScriptedModel(["no JSON", {"total": 3}], name="any", price=PRICED)
    with Fusion(model=model, store=store, content=content) as fusion:
        result = fusion.complete(pipeline=text)
    assert len(list(store.calls(result.run_id))) == result.receipt.calls == 2
    assert sum(line.usd for line in store.lines(result.run_id)) == result.cost.usd


class Failing(FileStore):
    """A store whose disk is full after so many rows."""

    def __init__(self, folder: Path, rows: int) -> None:
        super().__init__(folder)
        self._left = rows

    def put(self, *rows: Any) -> None:
        self._left -= len(rows)
        if self._left > 0:
            super().put(*rows)

    async def written(self) -> None:
        if self._left <= 0:
            raise StoreError("the disk is full")
        await super().written()


def test_a_store_that_fails_under_way_loses_no_run(tmp_path: Path) -> None:
    store = Failing(tmp_path, 9)
    with Fusion(model=ScriptedModel(planned), store=store) as fusion:
        result = fusion.complete("do it", pipeline=CHAIN)
    store.close()
    assert result.status == "ok"
    assert any("no longer kept" in note and "the disk is full" in note for note in result.notes)


# The numbers.


@pytest.mark.parametrize("number", [3, 6, 9, None])
def test_the_store_tells_the_receipt_of_the_result(number: int | None, store: Store) -> None:
    model = Stopping(planned, price=PRICED)
    with Fusion(model=model, store=store) as fusion:
        if number is None:
            result = fusion.complete("do it", pipeline=CHAIN)
        else:
            first = interrupted_at(fusion, model, number, pipeline=CHAIN)
            _same_receipt(store, first)
            result = fusion.resume(first.run_id)
    _same_receipt(store, result)
    row = store.run(result.run_id)
    assert row is not None
    assert (row.usd, row.calls) == (result.cost.usd, result.receipt.calls)


def _same_receipt(store: Store, result: Result) -> None:
    accounts = Accounts({line.model: line.price_source for line in result.receipt.lines})
    accounts.take_up(before(store, result.run_id))
    assert _lines(accounts.receipt(0)) == _lines(result.receipt)


def _lines(receipt: Any) -> list[Any]:
    return sorted(receipt.lines, key=lambda line: (line.stage, line.role, line.model))


# How long.


@pytest.fixture
def aged(tmp_path: Path) -> Settings:
    """Settings of a store with one run of 31 days and one of 29, and a retention of 30."""
    (tmp_path / "fusion.toml").write_text('[store]\npath = "runs.db"\nretention = 30\n')
    settings = Settings.from_environment({}, config=tmp_path / "fusion.toml")
    opened = open_store(settings.store.path)
    for run_id, days in (("old", 31), ("young", 29)):
        began = time.time() - days * 86400
        opened.put(Started(run_id, None, run_id, "p", "local", began, {}, "full", "", "{}"))
    opened.close()
    return settings


def test_opening_a_store_removes_no_run(aged: Settings) -> None:
    with Fusion(model=ScriptedModel("x"), store=True, settings=aged) as fusion:
        assert [row.run_id for row in fusion.store.runs(RunFilter())] == ["young", "old"]
    with History.open(settings=aged) as history:
        assert [run.run_id for run in history.list()] == ["young", "old"]


def test_the_end_of_a_run_removes_those_older_than_the_retention_and_counts_them(aged: Settings) -> None:
    with Fusion(model=ScriptedModel("x"), store=True, settings=aged) as fusion:
        handle = fusion.start("do it", pipeline="single")
        assert handle.wait().status == "ok"
        assert handle.expired == 1
        assert [row.run_id for row in fusion.store.runs(RunFilter())] == [handle.run_id, "young"]


def test_a_run_that_is_being_run_outlives_the_retention(aged: Settings) -> None:
    with Fusion(model=ScriptedModel("x"), store=True, settings=aged) as fusion:
        lock = fusion.store.lock("old")
        handle = fusion.start("do it", pipeline="single")
        handle.wait()
        lock.release()
        assert (handle.expired, fusion.store.run("old") is not None) == (0, True)


def test_a_store_of_ones_own_is_left_open(store: Store) -> None:
    for _ in range(2):
        with Fusion(model=ScriptedModel(planned, name="m"), store=store) as fusion:
            fusion.complete("do it", pipeline=CHAIN)
    assert len(store.runs(RunFilter())) == 2


def test_what_cannot_be_a_store_is_said_before_any_call(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.write_text("this is a text, and long enough to be read as one: " * 20)
    with pytest.raises(StoreError, match=r"runs\.db"):
        Fusion(model=ScriptedModel("x"), store=path)


@pytest.mark.parametrize("tags", [{"a=b": "c"}, {"": "c"}, {"a": 1}])
def test_tags_are_texts_by_names(tags: Any) -> None:
    with Fusion(model=ScriptedModel("x")) as fusion, pytest.raises(UsageError, match="tag"):
        fusion.complete("do it", pipeline=CHAIN, tags=tags)


def test_of_two_jobs_of_a_clock_one_begins_the_run(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    inside, begun = threading.Event(), threading.Event()
    found: list[str | None] = []

    def second() -> None:
        with Fusion(model=ScriptedModel("x", name="m"), store=path) as fusion:
            inside.wait()
            with sole_run(fusion, "do it", pipeline="single") as same:
                assert begun.is_set()
                found.append(same)

    other = threading.Thread(target=second)
    other.start()
    with Fusion(model=ScriptedModel(Say("x", delay=60), name="m"), store=path) as fusion:
        with sole_run(fusion, "do it", pipeline="single") as same:
            assert same is None
            inside.set()
            handle = fusion.start("do it", pipeline="single")
            begun.set()
        other.join()
        handle.cancel()
    assert found == [handle.run_id]
