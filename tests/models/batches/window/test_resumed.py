"""Runs that end while their calls are in batches, and join them again."""

from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Result
from fusion.core.errors import ModelConnectionError
from fusion.core.events import BatchAttempt, BatchEnded, BatchSubmitted, EventBase
from fusion.store.open import open_store
from fusion.store.rows import AttemptState
from tests.conftest import FileStore, pipeline, run
from tests.models.batches.window.scripted import HALF, BatchModel, Provider, quick
from tests.models.batches.window.test_batches import MAP, notes

Make = Callable[..., Fusion]


class KilledError(RuntimeError):
    """The process is no more."""


class MortalStore(FileStore):
    """A store that keeps nothing from the moment on at which its process is killed."""

    killed = False

    def put(self, *rows: Any) -> None:
        if not self.killed:
            super().put(*rows)

    def kill(self) -> None:
        """Let what is queued reach the disk, and nothing after it."""
        self.flush()
        self.killed = True
        raise KilledError


class Case:
    """A map in batches, its first session and the ones that resume it."""

    def __init__(self, fusion: Make, folder: Path, provider: Provider, **options: Any) -> None:
        self.provider = provider
        self.folder = folder
        self._make = fusion
        self._options = options

    def first(self, store: Any, count: int = 4, *, options: str = "", **more: Any) -> Result:
        self.model = BatchModel(self.provider)
        one = self._make({"bulk": self.model}, settings=quick(), store=store, **self._options)
        given = pipeline(MAP.replace("OPTIONS", options))
        result, self.events = run(one, None, pipeline=given, inputs={"notes": notes(count)}, batch=True, **more)
        one.close()
        return result

    def resumed(self, run_id: str, **more: Any) -> Result:
        self.model = BatchModel(self.provider)
        self.events = []
        with closing(open_store(self.folder / "runs.db")) as store:
            one = self._make({"bulk": self.model}, settings=quick(), store=store, **self._options)
            result = one.resume(run_id, on_event=self.events.append, **more)
            self.states = self._states(store, run_id)
            one.close()
        return result

    @staticmethod
    def _states(store: Any, run_id: str) -> list[AttemptState]:
        return ["open" if end is None else end.state for _, end in store.attempts(run_id)]

    def of(self, kind: type[EventBase]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def killed_at(case: Case, moment: str, *, count: int = 4) -> str:
    """Run until the provider sees a moment, at which the process dies; return the id of the run."""
    store = MortalStore(case.folder)
    case.provider.on = {moment: store.kill}
    result = case.first(store, count)
    case.provider.on = {}
    store.killed = False
    store.close()
    assert result.status == "failed"
    return result.run_id


@pytest.mark.parametrize("moment", ["submit", "submitted", "state", "results"])
@pytest.mark.parametrize("cap", [None, "0.0035"])
def test_a_run_killed_at_any_moment_pays_once(fusion: Make, tmp_path: Path, moment: str, cap: str | None) -> None:
    case = Case(fusion, tmp_path, Provider(polls=1), **({"budget": {"usd": cap}} if cap else {}))
    run_id = killed_at(case, moment)
    result = case.resumed(run_id)
    assert result.status == "ok"
    assert [item.value for item in result.items] == [f"answer to Say note {n}" for n in range(4)]
    assert sorted(case.provider.sent) == [f"Say note {n}" for n in range(4)]
    assert case.model.live == []
    if moment != "submit":
        assert result.cost.usd == 4 * HALF
        assert case.states == ["settled"] * 4
        assert [event.joined for event in case.of(BatchSubmitted)] == [True]


def test_what_was_never_submitted_is_not_charged(fusion: Make, tmp_path: Path) -> None:
    case = Case(fusion, tmp_path, Provider())
    result = case.resumed(killed_at(case, "submit"))
    assert case.states == ["refunded"] * 4 + ["settled"] * 4
    assert result.cost.usd == 4 * HALF
    assert (len(case.provider.looked), len(case.provider.submitted)) == (2, 1)


def test_a_batch_that_the_provider_shows_a_little_later_is_found(fusion: Make, tmp_path: Path) -> None:
    case = Case(fusion, tmp_path, Provider())
    run_id = killed_at(case, "submitted")
    case.provider.unseen = 1
    result = case.resumed(run_id)
    assert (result.cost.usd, len(case.provider.submitted)) == (4 * HALF, 1)


def test_a_process_killed_while_results_are_read_reads_them_again(fusion: Make, tmp_path: Path) -> None:
    provider = Provider()
    case = Case(fusion, tmp_path, provider)
    store = MortalStore(tmp_path)

    def answer(text: str) -> Any:
        if text == "Say note 2" and provider.read == 1:
            store.kill()
        return text

    provider.answer = answer
    failed = case.first(store)
    store.killed = False
    store.close()
    result = case.resumed(failed.run_id)
    assert (result.cost.usd, len(provider.sent), provider.read) == (4 * HALF, 4, 2)


@pytest.mark.parametrize("times", [1, 2, 3, 5])
def test_a_run_may_be_killed_again_and_again(fusion: Make, tmp_path: Path, times: int) -> None:
    provider = Provider(hold=True)
    case = Case(fusion, tmp_path, provider, budget={"usd": "0.004"})
    run_id = killed_at(case, "state")
    for _ in range(times):
        store = MortalStore(tmp_path)
        provider.on = {"state": store.kill}
        model = BatchModel(provider)
        one = fusion(models={"scripted/batch": model}, settings=quick(), store=store, budget={"usd": "0.004"})
        handle = one.start_resume(run_id)
        assert handle.wait().status == "failed"
        one.close()
        store.killed, provider.on = False, {}
        store.close()
    provider.hold = False
    result = case.resumed(run_id)
    assert (result.status, result.cost.usd, len(provider.sent)) == ("ok", 4 * HALF, 4)


def stopped(case: Case, when: type[EventBase] = BatchSubmitted, **more: Any) -> Result:
    """Interrupt the first session once an event of this kind is there."""
    import threading

    seen = threading.Event()
    with closing(open_store(case.folder / "runs.db")) as store:
        one = case._make({"bulk": BatchModel(case.provider)}, settings=quick(), store=store, **case._options)
        given = pipeline(MAP.replace("OPTIONS", more.pop("options", "")))
        case.events = []

        def on_event(event: EventBase) -> None:
            case.events.append(event)
            if isinstance(event, when):
                seen.set()

        handle = one.start(pipeline=given, inputs={"notes": notes(4)}, batch=True, on_event=on_event)
        assert seen.wait(5)
        handle.stop()
        result = handle.wait()
        one.close()
    return result


def test_an_interrupted_run_counts_its_batch_until_it_is_joined(fusion: Make, tmp_path: Path) -> None:
    case = Case(fusion, tmp_path, Provider(hold=True))
    result = stopped(case)
    assert result.receipt.lines[0].charged.cost.usd > 4 * HALF
    assert [event.state for event in case.of(BatchAttempt)] == ["left"] * 4
    assert case.provider.cancelled == []
    case.provider.hold = False
    resumed = case.resumed(result.run_id)
    assert (resumed.status, resumed.cost.usd) == ("ok", 4 * HALF)
    assert [event.state for event in case.of(BatchAttempt)] == ["joined"] * 4
    assert resumed.receipt.lines[0].charged.cost.usd == 0
    assert len(case.provider.sent) == 4


def test_a_run_that_nothing_keeps_cancels_its_batch(fusion: Make) -> None:
    import threading

    provider, seen = Provider(hold=True), threading.Event()
    one = fusion({"bulk": BatchModel(provider)}, settings=quick())
    given = pipeline(MAP.replace("OPTIONS", ""))

    def on_event(event: EventBase) -> None:
        if isinstance(event, BatchSubmitted):
            seen.set()

    handle = one.start(pipeline=given, inputs={"notes": notes(4)}, batch=True, on_event=on_event)
    assert seen.wait(5)
    handle.stop()
    result = handle.wait()
    for _ in range(200):
        if provider.cancelled:
            break
        threading.Event().wait(0.01)
    assert provider.cancelled == ["batch_1"]
    assert result.receipt.lines[0].charged.cost.usd > 0


def test_rows_that_resume_at_different_times_have_their_results(fusion: Make, tmp_path: Path) -> None:
    provider = Provider(hold=True)
    given = pipeline(MAP.replace("OPTIONS", ""))
    with closing(MortalStore(tmp_path)) as store:
        one = fusion({"bulk": BatchModel(provider)}, settings=quick(quiet=0.2), store=store)
        handles = [one.start(pipeline=given, inputs={"notes": notes(2)}, batch=True) for _ in range(3)]
        provider.on = {"state": store.kill}
        for handle in handles:
            handle.wait()
        one.close()
        store.killed = False
    provider.on, provider.hold = {}, False
    assert [len(sent) for sent in provider.submitted] == [6]
    case = Case(fusion, tmp_path, provider)
    for handle in handles:
        result = case.resumed(handle.run_id)
        assert (result.status, result.cost.usd) == ("ok", 2 * HALF)
    assert len(provider.sent) == 6


def test_a_row_that_failed_in_the_batch_is_sent_again_after_a_resume(fusion: Make, tmp_path: Path) -> None:
    provider = Provider()
    case = Case(fusion, tmp_path, provider)
    run_id = killed_at(case, "state")
    gone = ModelConnectionError("it broke")
    provider.answer = lambda text: gone if text == "Say note 1" and len(provider.batches) == 1 else text
    result = case.resumed(run_id)
    assert result.status == "ok"
    assert provider.submitted[1:] == [["Say note 1"]]


def test_a_run_killed_in_its_second_batch_joins_that_one(fusion: Make, tmp_path: Path) -> None:
    provider = Provider()
    gone = ModelConnectionError("it broke")
    provider.answer = lambda text: gone if len(provider.batches) == 1 else text
    store = MortalStore(tmp_path)

    def kill_in_second() -> None:
        if len(provider.batches) == 2:
            store.kill()

    provider.on = {"state": kill_in_second}
    case = Case(fusion, tmp_path, provider)
    failed = case.first(store)
    store.killed, provider.on = False, {}
    store.close()
    result = case.resumed(failed.run_id)
    assert (result.status, len(provider.submitted), case.model.live) == ("ok", 2, [])


def test_a_deadline_that_passed_while_nobody_ran_leaves_results_alone(fusion: Make, tmp_path: Path) -> None:
    provider = Provider(hold=True)
    case = Case(fusion, tmp_path, provider)
    result = stopped(case, options="deadline: 0.3")
    import time

    time.sleep(0.35)
    provider.hold = False
    resumed = case.resumed(result.run_id)
    assert (resumed.cost.usd, case.model.live) == (4 * HALF, [])


def test_a_deadline_that_passed_makes_calls_live_after_a_resume(fusion: Make, tmp_path: Path) -> None:
    provider = Provider(hold=True)
    case = Case(fusion, tmp_path, provider)
    result = stopped(case, options="deadline: 0.3")
    resumed = case.resumed(result.run_id)
    assert (resumed.status, len(case.model.live)) == ("ok", 4)
    assert [event.status for event in case.of(BatchEnded)] == ["late"]
    assert case.states == ["charged"] * 4 + ["settled"] * 4


def test_an_edited_pipeline_joins_the_batch_of_the_run_that_it_continues(fusion: Make, tmp_path: Path) -> None:
    provider = Provider(hold=True)
    case = Case(fusion, tmp_path, provider)
    result = stopped(case)
    provider.hold = False
    edited = pipeline(MAP.replace("OPTIONS", "min_ok: 1"))
    resumed = case.resumed(result.run_id, pipeline=edited)
    assert (resumed.status, len(provider.sent)) == ("ok", 4)
    assert resumed.run_id != result.run_id
    assert resumed.cost.usd == 4 * HALF


def test_a_finished_run_returns_its_answer_without_a_look_at_the_batch(fusion: Make, tmp_path: Path) -> None:
    provider = Provider()
    case = Case(fusion, tmp_path, provider)
    with closing(open_store(tmp_path / "runs.db")) as store:
        result = case.first(store)
    looks = sum(kept.polls for kept in provider.batches.values())
    assert case.resumed(result.run_id).text == result.text
    assert sum(kept.polls for kept in provider.batches.values()) == looks


def test_seconds_in_batches_do_not_count_after_a_resume(fusion: Make, tmp_path: Path) -> None:
    provider = Provider(hold=True)
    case = Case(fusion, tmp_path, provider, budget={"seconds": 0.5, "usd": Decimal("0.01")})
    result = stopped(case)
    import time

    with closing(open_store(tmp_path / "runs.db")) as store:
        assert store.run(result.run_id) is not None
    time.sleep(0.6)
    provider.hold, provider.polls = False, 20
    resumed = case.resumed(result.run_id)
    assert resumed.status == "ok"
