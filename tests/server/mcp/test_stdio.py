"""`fusion mcp` over standard input and output, in a process of its own: its protocol, its end, and runs cut off."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from fusion import Fusion, ScriptedModel
from fusion.store.open import open_store
from fusion.store.rows import RunFilter
from tests.cli.conftest import MANY, Command, environment
from tests.cli.conftest import command as command

HELLO = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
READY = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class Process:
    """`fusion mcp` with its messages. Every line of standard output must be one of the protocol."""

    def __init__(self, folder: Path, *words: str, **env: str) -> None:
        self.store = folder / "runs.db"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.mcp.scripted", "mcp", *words],
            cwd=folder,
            env=environment(FUSION_STORE=str(self.store), **env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.send(HELLO)
        self.hello = self.read()["result"]
        self.send(READY)

    def send(self, message: Mapping[str, Any] | str) -> None:
        assert self._process.stdin is not None
        line = message if isinstance(message, str) else json.dumps(message)
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def call(self, number: int, tool: str, arguments: Mapping[str, Any], **meta: Any) -> None:
        params = {"name": tool, "arguments": arguments, "_meta": meta}
        self.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})

    def read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        message = json.loads(self._process.stdout.readline())
        assert message["jsonrpc"] == "2.0"
        found: dict[str, Any] = message
        return found

    def until(self, true: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        while not true(message := self.read()):
            pass
        return message

    def close_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """The exit code, and what was said until it, on standard output and standard error."""
        out, err = self._process.communicate(timeout=30)
        return self._process.returncode, out, err

    def statuses(self) -> list[str]:
        with closing(open_store(self.store)) as store:
            return [row.status for row in store.runs(RunFilter())]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def start(*words: str, **env: str) -> Process:
        (tmp_path / "many.yaml").write_text(MANY)
        running.append(Process(tmp_path, *words, **env))
        return running[-1]

    yield start
    for one in running:
        one.close()


def test_a_client_lists_and_calls_tools(started: Callable[..., Process]) -> None:
    process = started("many.yaml", "single", "-m", "scripted/echo")
    assert process.hello["serverInfo"]["name"] == "fusion"
    process.send({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert [tool["name"] for tool in process.read()["result"]["tools"]] == ["many", "single"]
    process.send("this is no message")
    process.call(2, "many", {"words": "a,b"}, progressToken="p")
    told = process.read()
    assert (told["method"], told["params"]["progressToken"]) == ("notifications/progress", "p")
    result = process.until(lambda message: message.get("id") == 2)["result"]
    assert result["content"][0]["text"] == "do a\n\ndo b"
    process.call(3, "many", {"words": "x" * 3_000_000})
    assert process.until(lambda message: message.get("id") == 3)["result"]["isError"] is False
    process.close_input()
    code, out, err = process.end()
    assert (code, out) == (0, "")
    assert "Traceback" not in err
    assert process.statuses() == ["ok", "ok"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_runs_and_the_server(started: Callable[..., Process], number: int) -> None:
    process = started("many.yaml", "-m", "scripted/slow")
    process.call(1, "many", {"words": "a,slow"}, progressToken=1)
    process.until(lambda message: "1/2" in message["params"]["message"])
    process.signal(number)
    code, _, err = process.end()
    assert code == (0 if number == signal.SIGTERM else 130)
    assert "Traceback" not in err
    assert process.statuses() == ["interrupted"]


def test_a_client_that_goes_away_ends_its_run(started: Callable[..., Process]) -> None:
    process = started("many.yaml", "-m", "scripted/slow")
    process.call(1, "many", {"words": "a,slow"}, progressToken=1)
    process.until(lambda message: "1/2" in message["params"]["message"])
    process.close_input()
    assert process.end()[0] == 0
    assert process.statuses() == ["interrupted"]


def test_a_killed_server_leaves_a_run_that_goes_on_without_paying_twice(started: Callable[..., Process]) -> None:
    process = started("many.yaml", "-m", "scripted/slow")
    process.call(1, "many", {"words": "a,slow"}, progressToken=1)
    process.until(lambda message: "1/2" in message["params"]["message"])
    process.signal(signal.SIGKILL)
    assert process.end()[0] == -signal.SIGKILL
    quick = ScriptedModel("done at last", name="scripted/slow")
    with Fusion(models={"scripted/slow": quick}, store=process.store) as fusion:
        result = fusion.resume("latest")
    assert (result.status, len(quick.requests)) == ("ok", 1)
    assert result.text == "done: do a\n\ndone at last"


def test_over_http_the_address_is_printed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fusion", "mcp", "--http", "--port", "0", "single", "--profile", "local"],
        cwd=tmp_path,
        env=environment(FUSION_STORE=str(tmp_path / "runs.db")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx.Client(trust_env=False) as client:
            assert client.get(f"{url.removesuffix('/mcp')}/healthz").status_code == 200
            assert client.post(url, json={}, headers={"host": "evil.example.org"}).status_code == 403
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert url.startswith("http://127.0.0.1:")
    assert (process.returncode, "Traceback" in err) == (0, False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sinlge",), "no pipeline 'sinlge'; did you mean 'single'?"),
        (("missing.yaml",), "'missing.yaml' does not exist"),
        (("single", "single"), "are both 'fusion/single'"),
        (("--port", "1"), "--port is for --http"),
        (("--host", "::1"), "--host is for --http"),
        (("--http", "--host", "0.0.0.0"), "needs a token: set FUSION_SERVER_TOKEN"),
        (("--budget", "usd=-1"), "give positive usd"),
        (("--within", "nightly"), "no [budgets.nightly]"),
    ],
)
def test_a_wrong_option_is_refused(command: Command, words: tuple[str, ...], said: str) -> None:
    ran = command("mcp", "--profile", "local", *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("mcp.server.lowlevel", (), "pip install 'compound-fusion[mcp]'"),
        ("httptools", ("--http",), "pip install 'compound-fusion[mcp,server]'"),
    ],
)
def test_without_the_extra_the_message_names_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, module: str, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    ran = command("mcp", "single", *words)
    assert (ran.code, said in ran.err) == (2, True)
