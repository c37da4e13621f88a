"""The stream of a run: live, resumed by the number of an event, and of a run in another process."""

from collections.abc import Iterator
from typing import Any

import pytest

from fusion import Fusion, Say
from tests.server.conftest import Served
from tests.server.page.conftest import PIPELINES, Gate, Sent, get, models, ran, started, stream


@pytest.fixture
def gate() -> Iterator[Gate]:
    one = Gate()
    yield one
    one.open()


def waiting(gate: Gate) -> Any:
    """A script that answers `part 1` at once and the others once the gate is open."""

    async def script(request: Any) -> str:
        if "part 1" not in request.messages[-1].content:
            await gate.wait()
        return "done"

    return script


def followed(served: Served, run_id: str, after: int | None = None) -> list[Sent]:
    """All messages of a run that has ended."""
    headers = {} if after is None else {"last-event-id": str(after)}
    with served.client() as client, client.stream("GET", f"/api/runs/{run_id}/events", headers=headers) as response:
        return list(stream(response))


def heard_elsewhere(served: Served, gate: Gate, store: Any) -> list[Sent]:
    """Follow a run of another Fusion on this store; return all messages after its first subtask."""
    with Fusion(profile="local", roles=models(waiting(gate)), store=store) as other:
        handle = other.start("do it", pipeline=PIPELINES["planned"])
        other.store.flush()
        with served.client() as client, client.stream("GET", f"/api/runs/{handle.run_id}/events") as response:
            messages = stream(response)
            assert next(one for one in messages if one.kind == "plan").data["titles"][0] == "part 1"
            gate.open()
            return list(messages)


def test_a_run_is_told_as_it_happens(paged: Any, gate: Gate) -> None:
    served = paged(models(waiting(gate), joined=Say(pieces=["the ", "whole"])))
    run_id = started(served)
    with served.client() as client, client.stream("GET", f"/api/runs/{run_id}/events") as response:
        messages, titles, work = stream(response), [], {}
        while not (titles and work.get("done") == 1 and work["flying"] == 2):
            message = next(messages)
            titles = message.data["titles"] if message.kind == "plan" else titles
            work = message.data["stages"].get("work", work) if message.kind == "state" else work
        assert (titles, work["known"]) == (["part 1", "part 2", "part 3"], 3)
        gate.open()
        rest = list(messages)
    assert "".join(one.data["text"] for one in rest if one.kind == "text") == "the whole"
    assert rest[-1] == Sent("end", {"status": "ok"}, None)
    last = [one.data for one in rest if one.kind == "state"][-1]
    assert (last["status"], last["flying"]) == ("ok", 0)


def test_a_stream_goes_on_after_the_event_that_came_last(paged: Any) -> None:
    served = paged()
    run_id = ran(served)
    numbers = [one.number for one in followed(served, run_id) if one.kind == "event"]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 4
    for after in (0, 2, len(numbers) - 1, len(numbers)):
        again = [one.number for one in followed(served, run_id, after) if one.kind == "event"]
        assert again == numbers[after:]


def test_events_of_a_stream_are_those_of_the_store(paged: Any) -> None:
    served = paged()
    run_id = ran(served, ["a", "bad"])
    told = [one.data for one in followed(served, run_id) if one.kind == "event"]
    assert [one["type"] for one in told] == [body["type"] for body in served.fusion.store.events(run_id)]
    assert any(one.get("failure", {}).get("reason") == "BadRequestError" for one in told)


def test_a_run_of_another_process_is_followed_by_its_store(paged: Any, gate: Gate, tmp_path: Any) -> None:
    served = paged()
    rest = heard_elsewhere(served, gate, tmp_path / "runs.db")
    assert rest[-1].data == {"status": "ok"}
    assert not any(one.kind == "text" for one in rest)


@pytest.mark.needs("initdb")
def test_a_run_of_another_process_is_told_by_the_database(
    paged: Any, gate: Gate, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusion.server.page.stream._TOLD", 3600)  # nothing is found by looking now and then
    served = paged(store=database)
    rest = heard_elsewhere(served, gate, database)
    assert rest[-1].data == {"status": "ok"}


def test_a_run_whose_process_died_ends_its_stream(paged: Any, gate: Gate) -> None:
    served = paged(models(waiting(gate)))
    store = served.fusion.store
    from fusion.store.rows import SessionStart, Started

    store.put(Started("dead", None, "dead", "p", "local", 1.0, {}, "full", "f", None), SessionStart("dead", 1, 1.0))
    store.flush()
    assert followed(served, "dead")[-1].data == {"status": "died"}
    assert get(served, "/api/runs/dead")["state"]["status"] == "died"


def test_a_late_page_reads_the_same_answer(paged: Any, gate: Gate) -> None:
    served = paged(models(joined=Say(pieces=["a" * 100, "b" * 100])))
    run_id = started(served)
    first = followed(served, run_id)
    second = followed(served, run_id)
    for told in (first, second):
        assert "".join(one.data["text"] for one in told if one.kind == "text") == "a" * 100 + "b" * 100
