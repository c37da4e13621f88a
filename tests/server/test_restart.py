"""A server that ends in the middle of runs: a retry goes on with them after its restart, and pays nothing twice."""

import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from benchmarks.perf.server import reply
from tests.cli.conftest import environment

PIPELINE = """
name: two
inputs: {task: A question.}
roles: {any: {chain: [openai/mock]}}
stages:
  first: {kind: generate, role: any, prompt: "FIRST {{ inputs.task }}"}
  answer: {kind: generate, role: any, prompt: "SECOND {{ first.text }}"}
output: answer
"""
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}


class Provider:
    """Answers calls, and holds those of the second stage until they may end. `calls` counts both by the prompt."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.may_end = threading.Event()
        self._changed = threading.Condition()
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                provider.take(body["messages"][-1]["content"])
                answer = reply(f"after {body['messages'][-1]['content']}")
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                return

            def handle(self) -> None:
                with suppress(OSError):  # the server that asked was killed
                    super().handle()

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def take(self, prompt: str) -> None:
        with self._changed:
            self.calls[prompt] += 1
            self._changed.notify_all()
        if prompt.startswith("SECOND"):
            self.may_end.wait(60)

    def wait_for_second(self, count: int) -> None:
        """Wait until so many calls of the second stage are held."""

        def held() -> bool:
            return sum(number for prompt, number in self.calls.items() if prompt.startswith("SECOND")) >= count

        with self._changed:
            assert self._changed.wait_for(held, 60)

    def close(self) -> None:
        self.may_end.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def provider() -> Iterator[Provider]:
    running = Provider()
    yield running
    running.close()


class Place:
    """A folder with a pipeline and a store, and a port: a server is started there, and started again."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        (folder / "two.yaml").write_text(PIPELINE)
        (folder / "own.toml").write_text("[server]\ngrace = 0.5\n")
        self._folder = folder
        self._env = environment(
            OPENAI_BASE_URL=provider.url, OPENAI_API_KEY="none", FUSION_CONFIG=str(folder / "own.toml")
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.process = self.start()

    def start(self) -> "subprocess.Popen[str]":
        words = [
            "serve",
            str(self._folder / "two.yaml"),
            "--port",
            str(self._port),
            "--store",
            str(self._folder / "db"),
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fusion", *words],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith(self.url)
        return self.process

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def place(tmp_path: Path, provider: Provider) -> Iterator[Place]:
    made = Place(tmp_path, provider)
    yield made
    made.close()


def body(dialect: str, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"{dialect} {stream}"}]
    given = {"input": f"{dialect} {stream}"} if dialect == "responses" else {"messages": messages}
    return {"model": "fusion/two", "stream": stream, **given, **({"max_tokens": 99} if dialect == "messages" else {})}


def asked(url: str, dialect: str, stream: bool, retry: int) -> tuple[str, str]:
    """Return the run and the text of an answer as far as it came."""
    headers = {"x-stainless-retry-count": str(retry)}
    run, said = "", ""
    try:
        with httpx.stream(
            "POST", url + PATHS[dialect], json=body(dialect, stream), headers=headers, timeout=60, trust_env=False
        ) as answer:
            run = answer.headers.get("x-fusion-run", "")
            for piece in answer.iter_text():
                said += piece
    except httpx.HTTPError:
        said += "(cut)"
    return run, said


def by_sdk(client: openai.OpenAI) -> str | None:
    """Return the answer that the SDK gets, with retries of its own."""
    messages: Any = [{"role": "user", "content": "by sdk"}]
    return client.chat.completions.create(model="fusion/two", messages=messages).choices[0].message.content


CASES = [(dialect, stream) for dialect in PATHS for stream in (True, False)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_retry_after_a_restart_goes_on_with_the_run(number: int, provider: Provider, place: Place) -> None:
    sdk = openai.OpenAI(base_url=f"{place.url}/v1", api_key="none", max_retries=20)
    with ThreadPoolExecutor(len(CASES) + 1) as clients:
        firsts = [clients.submit(asked, place.url, *case, 0) for case in CASES]
        alone = clients.submit(by_sdk, sdk)
        provider.wait_for_second(len(CASES) + 1)
        place.process.send_signal(number)
        place.process.communicate(timeout=20)
        before = [first.result() for first in firsts]
        assert all("after SECOND" not in said for _, said in before)
        if number == signal.SIGTERM:
            assert place.process.returncode == 0
            assert all("error" in said for _, said in before)
        provider.may_end.set()
        place.start()
        retried = [one.result() for one in [clients.submit(asked, place.url, *case, 1) for case in CASES]]
        assert alone.result() == "after SECOND after FIRST by sdk"
    for (dialect, stream), (run, _), (again, said) in zip(CASES, before, retried, strict=True):
        assert f"after SECOND after FIRST {dialect} {stream}" in said, said
        assert again
        assert run in ("", again)
    firsts_made = {prompt: count for prompt, count in provider.calls.items() if prompt.startswith("FIRST")}
    assert firsts_made == {**{f"FIRST {dialect} {stream}": 1 for dialect, stream in CASES}, "FIRST by sdk": 1}
    seconds = [count for prompt, count in provider.calls.items() if prompt.startswith("SECOND")]
    assert seconds == [2] * (len(CASES) + 1)
    third = [asked(place.url, *case, 2) for case in CASES]
    assert [run for run, _ in third] == [run for run, _ in retried]
    assert sum(provider.calls.values()) == 3 * (len(CASES) + 1)
