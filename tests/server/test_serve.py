"""`fusion serve`: its settings, its address and its end."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Command, environment

ONE = 'inputs: {task: x}\nstages: {answer: {kind: generate, prompt: "{{ inputs.task }}"}}\noutput: answer\n'


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('tokens = {ci = "sk-1234567890"}', "expected the name of the environment variable"),
        ("concurrency = 0", "expected at least 1, got 0"),
        ('on_disconnect = "wait"', "expected 'stop' or 'finish', got 'wait'"),
        ('allowed_hosts = ["https://x.org"]', "write it without scheme and port"),
        ('allowed_origins = ["x.org"]', "write it as https://chat.example.org"),
        ('pipelines = {"bad name" = "single"}', "invalid name 'bad name'"),
        ('[server.pipelines.x]\npipeline = "single"\ncallers = ["ci"]', "caller 'ci' has no token"),
        ("max_bodi = 5", "unknown key 'max_bodi'; did you mean 'max_body'?"),
        ("grace = -1", "expected at least 0, got -1"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(
    tmp_path: Path,
    command: Command,
    table: str,
    said: str,
) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f"[server]\n{table}\n")
    ran = command("serve", "--config", str(path), "--port", "0")
    assert ran.code == 2
    assert f"{path}:" in ran.err
    assert said in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "0.0.0.0"), "needs a token: set FUSION_SERVER_TOKEN"),
        (("--host", "::"), "needs a token: set FUSION_SERVER_TOKEN"),
        (("sinlge",), "no pipeline 'sinlge'; did you mean 'single'?"),
        (("single", "single"), "are both 'fusion/single'"),
        (("--within", "nightly"), "no [budgets.nightly]"),
        (("--budget", "usd=-1"), "give positive usd"),
        (("missing.yaml",), "'missing.yaml' does not exist"),
    ],
)
def test_a_wrong_option_is_refused(command: Command, words: tuple[str, ...], said: str) -> None:
    ran = command("serve", "--profile", "local", "--port", "0", *words)
    assert (ran.code, said in ran.err) == (2, True), ran.err


def test_a_token_that_is_not_set_is_refused(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[server]\ntokens = {ci = "CI_SECRET_OF_NOBODY"}\n')
    ran = command("serve", "--config", str(path), "--port", "0")
    assert (ran.code, "CI_SECRET_OF_NOBODY is not set" in ran.err) == (2, True)


def test_a_port_in_use_is_refused(command: Command) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = command("serve", "single", "--profile", "local", "--port", str(taken.getsockname()[1]))
    assert (ran.code, "choose another --port" in ran.err) == (2, True)


def test_without_the_extra_the_message_names_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    ran = command("serve", "single")
    assert (ran.code, "pip install 'compound-fusion[server]'" in ran.err) == (2, True)


def test_settings_of_a_project_serve_nothing_until_they_are_trusted(
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "fusion.toml").write_text('[server]\ntokens = {ci = "CI_SECRET_OF_NOBODY"}\n')
    monkeypatch.chdir(tmp_path)
    ran = command("serve", "sinlge", "--port", "0", stdin=b"")
    assert "[server] is ignored until you trust it" in ran.err
    assert "CI_SECRET_OF_NOBODY is not set" not in ran.err
    assert "server: tokens" in command("trust").out


class _Process:
    """`fusion serve` in a process of its own, with its address."""

    def __init__(self, folder: Path, *words: str, **env: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fusion", "serve", "--port", "0", "--profile", "local", *words],
            cwd=folder,
            env=environment(FUSION_STORE=str(folder / "runs.db"), **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def end(self, number: int) -> tuple[int, str]:
        self._process.send_signal(number)
        _, said = self._process.communicate(timeout=20)
        return self._process.returncode, said

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Process]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "mine.yaml").write_text(ONE)
    running = _Process(folder)
    yield running
    running.close()


def test_shipped_pipelines_and_those_of_the_folder_are_served(process: _Process) -> None:
    with httpx.Client(base_url=process.url, trust_env=False) as client:
        ids = {one["id"] for one in client.get("/v1/models").json()["data"]}
        assert {"fusion/mine", "fusion/single", "fusion/plan-execute-review"} <= ids
        assert client.get("/v1/models/mine").json()["id"] == "fusion/mine"
        for path in ("fusion.toml", "../pipelines/mine", "pipelines/mine.yaml", "/etc/passwd", "mine.yaml"):
            body = {"model": path, "messages": [{"role": "user", "content": "x"}]}
            said = client.post("/v1/chat/completions", content=json.dumps(body))
            assert said.status_code == 404, path


def test_a_signal_ends_an_idle_server(process: _Process) -> None:
    code, said = process.end(signal.SIGTERM)
    assert code == 0
    assert "serving" in said
    assert "Traceback" not in said
    assert process.url.startswith("http://127.0.0.1:")
