"""Ends of the server: running requests are answered within the grace, then stopped and told so."""

import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from fusion import Fusion
from tests.cli.conftest import Command
from tests.provider import Answer, Provider
from tests.server.conftest import Held, Serve, Served, models_of, serving, until

CHAT = "/v1/chat/completions"


class Asking:
    """A request in a thread; `answer` waits for its response."""

    def __init__(self, served: Served, body: Any, **headers: str) -> None:
        self._found: list[httpx.Response] = []
        self._thread = threading.Thread(target=lambda: self._found.append(served.post(CHAT, body, **headers)))
        self._thread.start()

    @property
    def answer(self) -> httpx.Response:
        self._thread.join(20)
        return self._found[0]


@pytest.mark.parametrize("stream", [False, True])
def test_a_running_request_is_answered_within_the_grace(serve: Serve, stream: bool) -> None:
    held = Held("in time")
    served = serve(held, table={"grace": 20})
    asking = Asking(served, served.chat(stream=stream))
    assert held.busy.wait(10)
    served.stop()
    held.release.set()
    assert "in time" in asking.answer.text
    assert not stream or "[DONE]" in asking.answer.text


def test_a_server_that_ends_takes_no_more_requests(serve: Serve) -> None:
    held = Held()
    served = serve(held, table={"grace": 20})
    with served.client() as first, served.client() as other:
        assert other.get("/readyz").status_code == 200
        with first.stream("POST", CHAT, json=served.chat(stream=True)) as running:
            assert held.busy.wait(10)
            served.stop()
            try:
                said = other.post(CHAT, json=served.chat())
                assert (said.status_code, said.json()["error"]["code"]) == (503, "shutting_down")
                assert int(said.headers["retry-after"]) > 0
            except httpx.ConnectError:
                pass  # its connection was idle, and is closed
            held.release.set()
            assert "[DONE]" in running.read().decode()
    assert held.calls == 1


@pytest.mark.parametrize("stream", [False, True])
def test_after_the_grace_a_run_stops_and_goes_on_at_the_next_server(tmp_path: Path, stream: bool) -> None:
    held = Held("at last")
    store, key = tmp_path / "runs.db", {"idempotency-key": "k"}
    models = models_of(held)
    with Fusion(profile="local", roles=models, store=store) as fusion:
        with serving(fusion, models, table={"grace": 0}) as served:
            body = served.chat(stream=stream)
            asking = Asking(served, body, **key)
            assert held.busy.wait(10)
            served.stop()
            said = asking.answer
        if stream:
            last = json.loads(said.text.strip().splitlines()[-1].removeprefix("data: "))
            assert last["choices"][0]["finish_reason"] == "error"
            assert last["error"]["code"] == "Interrupted"
        else:
            assert (said.status_code, said.json()["error"]["code"]) == (503, "Interrupted")
            assert "x-should-retry" not in said.headers
        held.release.set()
        with serving(fusion, models) as served:
            again = served.post(CHAT, body, **key)
    assert "at last" in again.text
    assert again.headers["x-fusion-run"] == said.headers["x-fusion-run"]


def test_a_request_that_waits_for_room_is_refused_once_the_grace_is_over(serve: Serve) -> None:
    held = Held()
    served = serve(held, table={"grace": 0, "concurrency": 1})
    running = Asking(served, served.chat())
    assert held.busy.wait(10)
    waiting = Asking(served, served.chat())
    until(lambda: "fusion_queue_length 1" in served.metrics())
    served.stop()
    assert running.answer.json()["error"]["code"] == "Interrupted"
    assert (waiting.answer.status_code, waiting.answer.json()["error"]["code"]) == (503, "shutting_down")
    assert held.calls == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 130)])
def test_a_signal_ends_the_command(command: Command, tmp_path: Path, number: int, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    seen: list[httpx.Response] = []

    def ask(url: str) -> None:
        served = Served(url, None)  # type: ignore[arg-type]  # the command has the Fusion
        try:
            with served.client(transport=httpx.HTTPTransport(retries=10)) as client:
                seen.append(client.get("/healthz"))
            asking = Asking(served, served.chat(model="single", stream=True))
            until(lambda: bool(provider.requests))
        finally:
            os.kill(os.getpid(), number)
        seen.append(asking.answer)

    with Provider([Answer(hang=True)]) as provider:
        own = tmp_path / "own.toml"
        endpoint = f'[endpoints.own]\nmodel = "m"\napi_base = "{provider.url}"\n'
        own.write_text(f"{endpoint}[server]\ngrace = 0\n")
        client = threading.Thread(target=ask, args=(f"http://127.0.0.1:{port}",))
        client.start()
        ran = command("serve", "single", "-m", "own", "--config", str(own), "--port", str(port))
        client.join()
    assert ran.code == code
    assert ran.out == f"http://127.0.0.1:{port}\n"
    assert "Traceback" not in ran.err
    assert [one.status_code for one in seen] == [200, 200]
    assert '"finish_reason":"error"' in seen[1].text
