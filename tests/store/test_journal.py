"""What a run does is on disk before anything outside comes of it: before it is told, and before more is asked."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Model, Reply, Request, RunFailed, ScriptedModel
from fusion.core.errors import BadRequestError, StoreError
from fusion.core.events import CallFinished, EventBase, ItemFinished, Noted, RunFinished
from fusion.core.types import Deltas
from fusion.store.open import open_store
from fusion.store.rows import Attempt, Call, Decision, Ended, Row, RunFilter
from tests.conftest import FileStore, pipeline, run
from tests.engine.test_resume import CHAIN, planned
from tests.processes import exit_code

TURNS = 40
"""Of the loop, that a slow disk takes: the engine goes through many stages meanwhile, if nothing holds it."""

STEPS = pipeline("""
inputs: {task: What is to be done.}
stages:
  one: {kind: generate, role: any, prompt: "first {{ inputs.task }}"}
  two: {kind: generate, role: any, prompt: "second {{ one }}"}
  three: {kind: generate, role: any, prompt: "third {{ two }}"}
output: three
""")

TWO = pipeline("""
inputs: {rows: {default: [quick, slow]}}
stages: {work: {kind: map, over: inputs.rows, role: any, prompt: "{{ item }}"}}
output: work
""")


class Slow(FileStore):
    """A store whose disk takes its time. `on_disk` are the rows that it has."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rows: list[Row] = []
        self.on_disk: list[Row] = []
        self._waiting: list[asyncio.Task[None]] = []

    def put(self, *rows: Row) -> None:
        self.rows += rows
        super().put(*rows)

    async def written(self) -> None:
        before = len(self.rows)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        await super().written()
        self.on_disk = self.rows[: max(before, len(self.on_disk))]

    def when_written(self, call: Callable[[StoreError | None], object]) -> None:
        async def wait() -> None:
            await self.written()
            call(None)

        self._waiting.append(asyncio.get_running_loop().create_task(wait()))

    def has(self, kind: type[Row], stage: str, item: int | None = None) -> bool:
        """Whether a call or an attempt of this stage and item is on disk."""
        return any(isinstance(row, kind) and _place(row) == (stage, item) for row in self.on_disk)


def _place(row: Any) -> tuple[str, int | None]:
    return (row.key.stage, row.key.item) if isinstance(row, Call) else (row.stage, row.item)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Slow]:
    store = Slow(tmp_path)
    yield store
    store.close()


class Watching(Model):
    """A scripted model that says beforehand what it is asked."""

    def __init__(self, script: Any, watch: Callable[[Request], None]) -> None:
        self._model = ScriptedModel(script, name="watching")
        self.info = self._model.info
        self._watch = watch

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        self._watch(request)
        return await self._model.complete(request, on_delta)


def test_what_comes_of_a_reply_is_asked_when_it_is_on_disk_with_the_attempts_own_row(slow: Slow) -> None:
    seen = list[tuple[bool, ...]]()
    before = {"one": (), "two": ("one",), "three": ("one", "two")}

    def watch(request: Request) -> None:
        assert request.key is not None
        stage = request.key.stage
        seen.append((slow.has(Attempt, stage), *(slow.has(Call, other) for other in before[stage])))

    with Fusion(model=Watching("an answer", watch), store=slow) as fusion:
        assert fusion.complete("do it", pipeline=STEPS).text == "an answer"
    assert seen == [(True,), (True, True), (True, True, True)]


def test_a_subtask_is_worked_on_when_it_is_on_disk(slow: Slow) -> None:
    seen = list[bool]()

    def watch(request: Request) -> None:
        assert request.key is not None
        if request.key.stage == "work":
            accepted = sum(isinstance(row, Decision) and row.stage == "plan" for row in slow.on_disk)
            seen.append(accepted > (request.key.item or 0))

    with Fusion(model=Watching(planned, watch), store=slow) as fusion:
        assert fusion.complete("do it", pipeline=CHAIN).status == "ok"
    assert seen == [True] * 4


def test_a_finished_call_and_what_comes_of_it_is_told_when_it_is_on_disk_and_in_order(slow: Slow) -> None:
    told, late = list[EventBase](), list[str]()

    def on_event(event: EventBase) -> None:
        told.append(event)
        if isinstance(event, (CallFinished, ItemFinished)) and event.stage in ("work", "polish", "answer"):
            late.extend([] if slow.has(Call, event.stage, event.item) else [event.stage])

    with Fusion(model=ScriptedModel(planned), store=slow) as fusion:
        fusion.complete("do it", pipeline=CHAIN, on_event=on_event)
    assert late == []
    assert sum(isinstance(event, CallFinished) for event in told) == 10
    assert [event.at for event in told] == sorted(event.at for event in told)
    assert isinstance(told[-1], RunFinished)


def test_the_answer_is_given_when_the_end_of_the_run_is_on_disk(slow: Slow) -> None:
    with Fusion(model=ScriptedModel("an answer"), store=slow) as fusion:
        fusion.complete("do it", pipeline=STEPS)
        assert any(isinstance(row, Ended) for row in slow.on_disk)


def test_a_finished_call_is_told_while_others_are_still_under_way(tmp_path: Path) -> None:
    heard = threading.Event()

    def watch(request: Request) -> None:
        if request.messages[-1].content == "slow":
            waiting.append(asyncio.get_running_loop())

    class Waiting(Watching):
        async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
            if request.messages[-1].content == "slow":
                assert await asyncio.to_thread(heard.wait, 30)
            return await super().complete(request, on_delta)

    waiting: list[Any] = []
    with Fusion(model=Waiting("done", watch), store=tmp_path / "runs.db") as fusion:
        result = fusion.complete(
            pipeline=TWO, on_event=lambda event: heard.set() if isinstance(event, CallFinished) else None
        )
    assert [item.value for item in result.items] == ["done", "done"]
    assert len(waiting) == 1


def told_until_killed(path: Path, number: int) -> None:
    """Run a pipeline; the process is killed when it hears of the n-th call that is finished."""
    told = 0

    def on_event(event: Any) -> None:
        nonlocal told
        told += isinstance(event, CallFinished)
        if told == number:
            os.kill(os.getpid(), signal.SIGKILL)

    with Fusion(model=ScriptedModel(planned), store=path) as fusion:
        fusion.complete("do it", pipeline=CHAIN, on_event=on_event)


@pytest.mark.parametrize("number", [1, 2, 5, 9, 10])
def test_a_process_that_dies_when_it_hears_of_a_call_has_kept_it(number: int, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    assert exit_code(told_until_killed, path, number) == -signal.SIGKILL
    store = open_store(path)
    (row,) = store.runs(RunFilter())
    assert sum(state == "finished" for _, _, state in store.index(row.run_id)) >= number
    store.close()


class _LostError(Exception):
    pass


@pytest.mark.parametrize("kind", ["call_started", "call_finished", "item_finished", "stage_finished"])
def test_a_fault_of_who_listens_ends_the_run_with_it(kind: str, tmp_path: Path) -> None:
    def on_event(event: Any) -> None:
        if event.type == kind:
            raise _LostError(kind)

    with Fusion(model=ScriptedModel("done"), store=tmp_path / "runs.db") as fusion:
        with pytest.raises(RunFailed) as caught:
            fusion.complete(pipeline=TWO, on_event=on_event)
        assert isinstance(caught.value.__cause__, _LostError)
        (summary,) = fusion.runs.list()
        assert summary.status == "failed"


class Failing(FileStore):
    """A store whose disk is full from the n-th row on."""

    def __init__(self, folder: Path, rows: int) -> None:
        super().__init__(folder)
        self._left = rows

    def put(self, *rows: Row) -> None:
        self._left -= len(rows)
        if self._left >= 0:
            super().put(*rows)

    async def written(self) -> None:
        if self._left < 0:
            raise StoreError("the disk is full")
        await super().written()

    def when_written(self, call: Callable[[StoreError | None], object]) -> None:
        if self._left < 0:
            asyncio.get_running_loop().call_soon(call, StoreError("the disk is full"))
        else:
            super().when_written(call)


ROWS = 2 + 3 * (1 + 2) + 2 * 3 + 1
"""Of a run of three stages: its two first, an attempt, its end and its call for each, two events, and its end."""


@pytest.mark.parametrize("rows", range(2, ROWS - 1))
def test_a_disk_that_is_full_at_any_moment_is_said_and_the_run_goes_on(rows: int, tmp_path: Path) -> None:
    store = Failing(tmp_path, rows)
    with Fusion(model=ScriptedModel("an answer"), store=store) as fusion:
        result, events = run(fusion, pipeline=STEPS)
    store.close()
    assert (result.status, result.text, result.receipt.calls) == ("ok", "an answer", 3)
    assert [note for note in result.notes if "no longer kept" in note and "the disk is full" in note]
    assert sum(isinstance(event, Noted) and "no longer kept" in event.message for event in events) == 1
    assert sum(isinstance(event, CallFinished) for event in events) == 3
    assert isinstance(events[-1], RunFinished)


class Unreadable(FileStore):
    """A store whose calls cannot be read any more once it is `damaged`, in one way or the other."""

    damaged = ""

    async def answer(self, run_id: str, number: int) -> Call | None:
        if self.damaged == "answer":
            raise StoreError("the store is damaged")
        return await super().answer(run_id, number)

    def call(self, run_id: str, number: int) -> Call | None:
        if self.damaged == "call":
            raise StoreError("the store is damaged")
        return super().call(run_id, number)


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[Unreadable]:
    store = Unreadable(tmp_path)
    yield store
    store.close()


@pytest.mark.parametrize("damaged", ["answer", "call"])
def test_finished_calls_that_cannot_be_read_any_more_lose_no_run(damaged: str, unreadable: Unreadable) -> None:
    with Fusion(model=ScriptedModel("an answer"), store=unreadable) as fusion:
        first = fusion.complete("do it", pipeline=STEPS)
        unreadable.damaged = damaged
        again = fusion.resume(first.run_id, pipeline=STEPS)
    assert (again.status, again.text) == ("ok", "an answer")
    assert [note for note in again.notes if "no longer kept" in note and "damaged" in note]


def test_a_failure_that_cannot_be_read_any_more_is_asked_for_anew(unreadable: Unreadable) -> None:
    tries = list[str]()

    def script(request: Request) -> Any:
        assert request.key is not None
        tries.append(request.key.stage)
        return BadRequestError("no", model="any") if request.key.stage in ("work", "last") else "an answer"

    text = pipeline("""
inputs: {rows: {default: [a]}}
stages:
  work: {kind: map, over: inputs.rows, role: any, min_ok: 0, prompt: "{{ item }} again"}
  then: {kind: generate, role: any, prompt: "{{ work.items }} failed"}
  last: {kind: generate, role: any, prompt: "{{ then }} and last"}
output: last
""")
    with Fusion(model=ScriptedModel(script), store=unreadable) as fusion:
        first, _ = run(fusion, None, pipeline=text)
        assert first.status == "failed"
        unreadable.damaged = "answer"
        with pytest.raises(RunFailed, match="no"):
            fusion.resume(first.run_id)
    assert tries.count("work") == 2
