"""Gates over HTTP: listed and answered, deadlines kept by the server, and requests whose run waits."""

import asyncio
import time
from typing import Any

import httpx
import openai
import pytest

from fusion.client.gates import ready_runs
from fusion.core.types import Request
from fusion.server.runs.people import People
from tests.conftest import said
from tests.server.conftest import Serve, Served, pipeline, until

LETTER = """
name: letter
inputs: {task: What to write.}
stages:
  draft: {kind: generate, role: frontier, prompt: "Write: {{ inputs.task }}"}
  approval: {kind: gate, show: draft, title: Send this?, ask: edit%s}
  sent: {kind: generate, role: bulk, prompt: "Send: {{ approval.text }} ({{ approval.by }})"}
output: sent
"""
TIMED = ", timeout: 3d, default: approve"
DAY = 86400.0


class Calls:
    """A script that counts its calls and says what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, request: Request) -> str:
        self.said.append(said(request))
        return said(request).splitlines()[-1]


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def letters(serve: Serve, calls: Calls) -> Served:
    """A server of letters with a deadline, and of some without."""
    return serve(calls, pipelines={"letter": pipeline(LETTER % TIMED), "endless": pipeline(LETTER % "")})


def waiting_run(served: Served, name: str = "letter") -> str:
    """The id of a run that was started on the page, and waits."""
    run_id: str = served.post("/api/runs", {"pipeline": name, "inputs": {"task": "a letter"}}).json()["run_id"]
    until(lambda: served.fusion.runs.find(run_id).status == "waiting")
    return run_id


def ended(served: Served, run_id: str) -> Any:
    until(lambda: served.fusion.runs.find(run_id).status not in ("waiting", "running", "died"))
    return served.fusion.runs.result(run_id)


def get(served: Served, path: str, **headers: str) -> Any:
    with served.client() as client:
        return client.get(path, headers=headers).json()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({}, "Send: Write: a letter (page)"),
        ({"by": "maria"}, "Send: Write: a letter (maria)"),
        ({"text": "Mine.", "by": "maria", "gate": "approval"}, "Send: Mine. (maria)"),
    ],
)
@pytest.mark.parametrize("name", ["letter", "endless"])
def test_an_answer_goes_on_with_the_run(
    letters: Served, calls: Calls, name: str, answer: dict[str, Any], text: str
) -> None:
    run_id = waiting_run(letters, name)
    (gate,) = get(letters, "/api/gates")["gates"]
    assert (gate["run_id"], gate["gate"]["place"], gate["gate"]["text"]) == (run_id, "approval", "Write: a letter")
    told = letters.post(f"/api/runs/{run_id}/gates", answer)
    assert told.status_code == 200, told.text
    assert told.json()["answer"]["via"] == "http"
    assert ended(letters, run_id).text == text
    assert len(calls.said) == 2
    assert get(letters, "/api/gates")["gates"] == []
    (one,) = get(letters, f"/api/runs/{run_id}/gates")["gates"]
    assert one["answer"]["by"] == answer.get("by", "page")


def test_a_no_ends_the_run(letters: Served) -> None:
    run_id = waiting_run(letters)
    letters.post(f"/api/runs/{run_id}/gates", {"yes": False, "text": "too long", "by": "ole"})
    result = ended(letters, run_id)
    assert result.error.message == "rejected by ole: too long"


def test_a_second_answer_is_told_of_the_first(letters: Served) -> None:
    run_id = waiting_run(letters)
    assert letters.fusion.answer(run_id, by="maria").by == "maria"
    second = letters.post(f"/api/runs/{run_id}/gates", {"yes": False, "by": "ole"})
    assert second.status_code == 409
    assert "approved by maria" in second.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"yes": "perhaps"}, 400, "yes: give true or false"),
        ({"text": 7}, 400, "text: give a text"),
        ({"data": {"a": 1}}, 400, "takes no data"),
        ({"word": "x"}, 400, "unknown field 'word'"),
        ({"gate": "nowhere"}, 404, "no gate 'nowhere'"),
        ({"text": "x" * 30_000}, 400, "too long"),
        ([1], 400, "JSON object"),
    ],
)
def test_an_answer_that_is_amiss_is_refused_and_the_gate_stays_open(
    letters: Served, body: Any, status: int, message: str
) -> None:
    run_id = waiting_run(letters)
    refused = letters.post(f"/api/runs/{run_id}/gates", body)
    assert refused.status_code == status, refused.text
    assert message in refused.json()["error"]["message"]
    assert len(get(letters, "/api/gates")["gates"]) == 1


def test_a_form_of_another_site_and_an_unknown_run_are_refused(letters: Served) -> None:
    run_id = waiting_run(letters)
    with letters.client() as client:
        foreign = client.post(f"/api/runs/{run_id}/gates", content=b"{}", headers={"content-type": "text/plain"})
        assert foreign.status_code == 415
        assert client.post("/api/runs/20200101-000000-abcdef/gates", json={}).status_code == 404


def test_callers_see_and_answer_their_own_runs_alone(
    serve: Serve, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANN", "BEN"):
        monkeypatch.setenv(f"TOKEN_{name}", f"{name}-token-0123456789")
    table = {"tokens": {"ann": "TOKEN_ANN", "ben": "TOKEN_BEN"}}
    served = serve(calls, pipelines={"letter": pipeline(LETTER % TIMED)}, table=table)
    ann, ben = ({"authorization": f"Bearer {name}-token-0123456789"} for name in ("ANN", "BEN"))
    body = {"pipeline": "letter", "inputs": {"task": "a letter"}}
    run_id = served.post("/api/runs", body, **ann).json()["run_id"]
    until(lambda: served.fusion.runs.find(run_id).status == "waiting")
    assert get(served, "/api/gates", **ben)["gates"] == []
    assert served.post(f"/api/runs/{run_id}/gates", {}, **ben).status_code == 404
    assert served.post(f"/api/runs/{run_id}/gates", {}).status_code == 401
    told = served.post(f"/api/runs/{run_id}/gates", {"by": "the boss"}, **ann).json()
    assert told["answer"]["by"] == "ann"
    assert ended(served, run_id).text.endswith("(ann)")


def test_the_server_keeps_deadlines(letters: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = waiting_run(letters)
    assert list(ready_runs(letters.fusion.store)) == []
    real = time.time
    monkeypatch.setattr("fusion.server.runs.people.EVERY", 0.05)
    monkeypatch.setattr(time, "time", lambda: real() + 4 * DAY)
    letters.fusion.store.flush()
    other = waiting_run(letters)  # the look that follows sees the moved clock
    letters.post(f"/api/runs/{other}/gates", {})
    assert ended(letters, run_id).text.endswith("(timeout)")


def test_an_answer_from_elsewhere_is_left_to_its_process_for_a_while(letters: Served) -> None:
    run_id = waiting_run(letters)
    letters.fusion.answer(run_id, by="maria")
    assert list(ready_runs(letters.fusion.store, quiet=10)) == []
    assert [row.run_id for row in ready_runs(letters.fusion.store, quiet=0)] == [run_id]


def test_a_server_that_starts_goes_on_with_what_was_answered_meanwhile(
    serve: Serve, fusion: Any, calls: Calls, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusion.server.runs.people.QUIET", 0.0)
    store = tmp_path / "runs.db"
    before = fusion({"frontier": calls, "bulk": calls}, store=store)
    run_id = before.complete("a letter", pipeline=pipeline(LETTER % "")).run_id
    before.answer(run_id, by="maria")
    served = serve(calls, pipelines={"letter": pipeline(LETTER % TIMED)}, store=store)
    assert ended(served, run_id).text.endswith("(maria)")


# Requests of the APIs.


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_that_waits_is_a_conflict_and_is_not_sent_again(letters: Served, calls: Calls, stream: bool) -> None:
    chats = letters.openai(max_retries=2).chat.completions

    def ask() -> None:
        answer = chats.create(model="letter", messages=[{"role": "user", "content": "a letter"}], stream=stream)
        list(answer if stream else [])

    with pytest.raises(openai.APIError) as refused:
        ask()
    assert "waits for a person at 'approval'" in str(refused.value)
    assert len(calls.said) == 1
    if not stream:
        assert isinstance(refused.value, openai.ConflictError)
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert refused.value.response.headers["x-fusion-run"]


def test_the_same_request_has_the_answer_once_it_is_approved(letters: Served, calls: Calls) -> None:
    def ask() -> httpx.Response:
        return letters.post("/v1/chat/completions", letters.chat("a letter", model="letter"), idempotency_key="k1")

    waits = ask()
    assert waits.status_code == 409
    assert waits.json()["error"]["code"] == "waiting_for_person"
    run_id = waits.headers["x-fusion-run"]
    assert ask().status_code == 409
    letters.fusion.approve(run_id, text="Mine.", by="maria")
    done = ask()
    assert done.status_code == 200, done.text
    assert done.json()["choices"][0]["message"]["content"] == "Send: Mine. (maria)"
    assert done.headers["x-fusion-run"] == run_id
    assert len(calls.said) == 2


def test_a_message_that_waits_is_a_conflict(letters: Served) -> None:
    body = {"model": "letter", "max_tokens": 100, "messages": [{"role": "user", "content": "a letter"}]}
    waits = letters.post("/v1/messages", body)
    assert waits.status_code == 409
    assert waits.json()["type"] == "error"
    assert "waits for a person" in waits.json()["error"]["message"]
    events = letters.post("/v1/messages", {**body, "stream": True}).text
    assert "event: error" in events
    assert "waits for a person" in events


def test_a_response_that_waits_is_in_progress_in_the_background(letters: Served) -> None:
    body = {"model": "letter", "input": "a letter", "background": True}
    begun = letters.post("/v1/responses", body).json()
    assert begun["status"] == "queued"
    path, run_id = f"/v1/responses/{begun['id']}", begun["id"].removeprefix("resp_")
    until(lambda: letters.fusion.runs.find(run_id).status == "waiting")
    until(lambda: "fusion" in get(letters, path))
    shown = get(letters, path)
    assert shown["status"] == "in_progress"
    assert shown["fusion"]["waiting"][0]["gate"] == "approval"
    follows = letters.post("/v1/responses", {"model": "letter", "input": "x", "previous_response_id": begun["id"]})
    assert follows.json()["error"]["code"] == "response_in_progress"
    letters.post(f"/api/runs/{run_id}/gates", {"by": "maria"})
    ended(letters, run_id)
    until(lambda: get(letters, path)["status"] == "completed")
    assert get(letters, path)["output"][0]["content"][0]["text"] == "Send: Write: a letter (maria)"


def test_a_response_that_waits_is_a_conflict_in_the_foreground(letters: Served) -> None:
    waits = letters.post("/v1/responses", {"model": "letter", "input": "a letter"})
    assert waits.status_code == 409
    events = letters.post("/v1/responses", {"model": "letter", "input": "a letter", "stream": True}).text
    assert "event: response.failed" in events
    assert "waiting_for_person" in events


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_gates_without_a_deadline_are_not_served_in_the_apis(letters: Served, calls: Calls, path: str) -> None:
    body = {"model": "endless", "input": "x", "max_tokens": 10, "messages": [{"role": "user", "content": "x"}]}
    refused = letters.post(path, body)
    assert refused.status_code == 400
    assert "give the gate `timeout` and `default`" in refused.json()["error"]["message"]
    assert calls.said == []
    assert [one["id"] for one in get(letters, "/v1/models")["data"]] == ["letter"]


def test_a_look_leaves_runs_alone_that_a_process_waits_for(letters: Served) -> None:
    from fusion.client.gates import awaited

    run_id = waiting_run(letters)
    people = People(letters.fusion, None)  # type: ignore[arg-type]  # it goes on with none
    with awaited(letters.fusion.store, run_id):
        letters.fusion.answer(run_id)
        asyncio.run(people.look(now=time.time() + 10 * DAY))
    assert letters.fusion.runs.find(run_id).status == "waiting"
