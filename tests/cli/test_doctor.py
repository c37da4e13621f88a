"""`fusion doctor`: one line for each finding, with what to do; keys by name only; no model is called."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fusion import Fusion, ScriptedModel
from fusion.core.config import machine
from fusion.models.catalog import price_file
from fusion.models.providers.local import weights
from fusion.sandbox import probe
from tests.cli.conftest import Command, Ran, environment, small_tier

DATA = b"GGUF" + bytes(1000)
SECRET = "sk-never-to-be-seen-0123456789"


class Reply(NamedTuple):
    status: int = 200
    body: bytes = b'{"data": [{"id": "m"}]}'
    date: datetime | None = None
    location: str | None = None


class Server:
    """A server that lists its models on loopback, or answers otherwise."""

    def __init__(self, reply: Reply) -> None:
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization")))
                self.send_response_only(reply.status)
                if reply.date is not None:
                    self.send_header("Date", format_datetime(reply.date, usegmt=True))
                if reply.location is not None:
                    self.send_header("Location", reply.location)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made: list[Server] = []
    yield made
    for one in made:
        one.close()


class Desk:
    def __init__(self, home: Path, servers: list[Server], patch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.own = home / "own.toml"
        self.own.write_text("")
        self.patch = patch
        self._servers = servers

    def endpoint(self, name: str, reply: Reply | None, *lines: str) -> Server | None:
        """Add an endpoint, which is down without a reply."""
        server = None if reply is None else Server(reply)
        if server is not None:
            self._servers.append(server)
        url = "http://127.0.0.1:9/v1" if server is None else server.url
        text = f'[endpoints.{name}]\nmodel = "m"\napi_base = "{url}"\n' + "".join(f"{line}\n" for line in lines)
        self.own.write_text(self.own.read_text() + text)
        return server


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: list[Server]) -> Desk:
    (tmp_path / "work").mkdir()
    (tmp_path / "models").mkdir()
    values = {
        "HOME": tmp_path,
        "XDG_CACHE_HOME": tmp_path / "cache",
        "FUSION_CONFIG": tmp_path / "own.toml",
        "FUSION_STORE": tmp_path / "runs.db",
        "FUSION_MODELS_DIR": tmp_path / "models",
        "FUSION_PROFILE": "openai",
        "OPENAI_API_KEY": SECRET,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(machine, "MACHINE_WIDE", tmp_path / "etc" / "policy.toml")
    tier = small_tier(DATA)
    monkeypatch.setattr("fusion.client.doctor.files.manifest", lambda: {"small": tier})
    monkeypatch.setattr(weights, "manifest", lambda: {"small": tier, "strong": tier})
    monkeypatch.chdir(tmp_path / "work")
    price_file.forget()
    return Desk(tmp_path, servers, monkeypatch)


def found(ran: Ran) -> list[dict[str, str]]:
    checks: list[dict[str, str]] = json.loads(ran.out)
    return checks


def of(ran: Ran, name: str) -> list[dict[str, str]]:
    return [one for one in found(ran) if one["name"] == name]


def test_all_is_well(desk: Desk, command: Command) -> None:
    ran = command("doctor")
    assert ran.code == 0, ran.out
    lines = [line.split() for line in ran.out.splitlines()]
    assert [line[1] for line in lines[:2]] == ["python", "installs"]
    assert {line[0] for line in lines[:-1]} == {"ok"}
    named = {"settings", "policy", "keys", "profile", "batches", "weights", "store", "prices", "sandbox", "clock"}
    assert named <= {line[1] for line in lines}
    assert lines[-1] == ["0", "problems,", "0", "warnings"]
    assert "set: OPENAI_API_KEY" in ran.out
    assert SECRET not in ran.out + ran.err
    assert not (desk.home / "runs.db").exists()


def test_five_broken_things(desk: Desk, command: Command) -> None:
    desk.endpoint("down", None)
    desk.endpoint("closed", Reply(401), 'key_env = "OPENAI_API_KEY"')
    desk.patch.setenv("OPENAI_API_KEY", f" {SECRET}\n")
    (desk.home / "runs.db").mkdir()
    (desk.home / "models" / "small.gguf").write_bytes(DATA[:10])
    (desk.home / "work" / "fusion.toml").write_text("[store]\nretention = 1\n")
    ran = command("doctor", "--json")
    assert ran.code == 2
    states = {(one["state"], one["name"]) for one in found(ran) if one["state"] != "ok"}
    assert states == {
        ("problem", "endpoint down"),
        ("problem", "endpoint closed"),
        ("problem", "store"),
        ("problem", "weights"),
        ("warning", "keys"),
        ("warning", "settings"),
    }
    assert all(one["advice"] for one in found(ran) if one["state"] != "ok")
    assert "fusion trust" in of(ran, "settings")[1]["advice"]
    assert "fusion models pull small" in of(ran, "weights")[1]["advice"]
    assert "is a folder" in of(ran, "store")[0]["words"] or "is no file" in of(ran, "store")[0]["words"]
    assert SECRET not in ran.out


@pytest.mark.parametrize(
    ("table", "state", "words"),
    [
        ("", "ok", "none: bubblewrap is not installed; for stages that run commands: `apt install bubblewrap`"),
        ("runner = ['nowhere']", "problem", "none: the runner 'nowhere' is not here; no stage can run a command"),
        ("runner = ['BIN']", "ok", "runner BIN: commands see no file"),
    ],
    ids=["none", "a runner that is not here", "a runner"],
)
def test_the_sandbox_or_what_to_install(desk: Desk, command: Command, table: str, state: str, words: str) -> None:
    program = desk.home / "mine"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    desk.own.write_text(f"[sandbox]\n{table.replace('BIN', str(program))}\n")
    desk.patch.setenv("PATH", "/nowhere")
    desk.patch.setattr(probe, "_chosen", probe._chosen.__wrapped__)
    (one,) = of(command("doctor", "--json"), "sandbox")
    assert one["state"] == state
    assert words.replace("BIN", str(program)) in one["words"]
    assert bool(one["advice"]) == (state == "problem")


ENDPOINTS = {
    "well": (Reply(), "ok", "answers, and has 'm'"),
    "another model": (
        Reply(body=b'{"data": [{"id": "other"}]}'),
        "warning",
        "does not list 'm'; set `model` to one",
    ),
    "refused": (Reply(403), "problem", "refuses the request (403); name the variable of its key: `key_env`"),
    "wrong path": (Reply(404), "warning", "lists no models (404); check the address"),
    "page": (Reply(body=b"<html>"), "warning", "lists no models (200)"),
    "deep": (Reply(body=b"[" * 100_000), "warning", "lists no models (200)"),
    "moved": (Reply(302, location="http://127.0.0.1:9/stolen"), "warning", "lists no models (302)"),
    "down": (None, "problem", "is not reachable: [Errno 111] Connection refused; start the server"),
}


@pytest.mark.parametrize(("reply", "state", "words"), ENDPOINTS.values(), ids=ENDPOINTS)
def test_an_endpoint(desk: Desk, command: Command, reply: Reply | None, state: str, words: str) -> None:
    server = desk.endpoint("mine", reply)
    ran = command("doctor", "--json")
    (one,) = of(ran, "endpoint mine")
    assert one["state"] == state
    assert words in f"{one['words']}; {one['advice']}"
    assert ran.code == (2 if state == "problem" else 0)
    assert server is None or server.asked == [("/v1/models", None)]


def test_an_endpoint_gets_its_own_key_alone(desk: Desk, command: Command) -> None:
    desk.patch.setenv("MY_SERVER", "key-of-mine")
    keyed, open_ = desk.endpoint("keyed", Reply(), 'key_env = "MY_SERVER"'), desk.endpoint("open", Reply())
    assert command("doctor").code == 0
    assert keyed is not None
    assert open_ is not None
    assert (keyed.asked, open_.asked) == ([("/v1/models", "Bearer key-of-mine")], [("/v1/models", None)])


def test_an_endpoint_that_is_denied_or_not_trusted_is_not_asked(desk: Desk, command: Command) -> None:
    denied = desk.endpoint("denied", Reply())
    project = Server(Reply())
    desk._servers.append(project)
    (desk.home / "work" / "fusion.toml").write_text(
        f'[policy]\ndeny = ["denied"]\n[endpoints.theirs]\nmodel = "m"\napi_base = "{project.url}"\n'
    )
    ran = command("doctor", "--json")
    assert "not asked: " in of(ran, "endpoint denied")[0]["words"]
    assert denied is not None
    assert denied.asked == project.asked == []
    assert of(ran, "endpoint theirs") == []


def test_providers_are_asked_only_online(desk: Desk, command: Command) -> None:
    server = Server(Reply())
    desk._servers.append(server)
    desk.patch.setenv("OPENAI_BASE_URL", server.url)
    assert of(command("doctor", "--json"), "provider openai") == []
    assert server.asked == []
    (one,) = of(command("doctor", "--online", "--json"), "provider openai")
    assert (one["state"], server.asked) == ("ok", [("/v1/models", f"Bearer {SECRET}")])


@pytest.mark.parametrize(("hours", "state"), [(0, "ok"), (2, "warning"), (-2, "warning")])
def test_the_clock_is_compared_with_a_server(desk: Desk, command: Command, hours: int, state: str) -> None:
    desk.endpoint("mine", Reply(date=datetime.now(UTC) + timedelta(hours=hours)))
    (one,) = of(command("doctor", "--json"), "clock")
    assert one["state"] == state
    assert ("behind" in one["words"], "ahead of" in one["words"]) == (hours > 0, hours < 0)


def test_keys(desk: Desk, command: Command) -> None:
    desk.patch.setenv("GROQ_API_KEY", "two\nlines")
    desk.patch.setenv("DEEPSEEK_API_KEY", "  ")
    desk.endpoint("mine", Reply(), 'key_env = "NOT_SET"')
    checks = of(command("doctor", "--json"), "keys")
    assert checks[0]["words"] == "set: GROQ_API_KEY, OPENAI_API_KEY"
    assert [one["state"] for one in checks[1:]] == ["problem", "problem"]
    assert "GROQ_API_KEY holds a line break" in checks[1]["words"]
    assert "endpoint 'mine' needs NOT_SET, which is not set" in checks[2]["words"]


def test_a_profile_without_its_key(desk: Desk, command: Command) -> None:
    desk.patch.delenv("OPENAI_API_KEY")
    ran = command("doctor", "--json")
    (one,) = of(ran, "profile")
    assert (ran.code, one["state"]) == (2, "problem")
    assert "OPENAI_API_KEY is not set" in one["words"]
    assert one["advice"].startswith("Set it, or choose another profile")


def test_weights(desk: Desk, command: Command) -> None:
    desk.patch.setenv("FUSION_PROFILE", "local")
    checks = of(command("doctor", "--json"), "weights")
    assert [one["state"] for one in checks] == ["ok", "warning", "warning"]
    assert checks[1]["advice"] == "fusion models pull small"
    path = desk.home / "models" / "small.gguf"
    path.write_bytes(DATA)
    assert of(command("doctor", "--json"), "weights")[0]["words"] == f"small in {path.parent}"
    path.with_name("small.gguf.checked").unlink(missing_ok=True)
    path.write_bytes(DATA[:-1] + b"x")
    assert "is damaged" in of(command("doctor", "--json"), "weights")[1]["words"]


def test_a_store_in_use(desk: Desk, command: Command) -> None:
    (desk.home / "one.yaml").write_text(
        "stages: {answer: {kind: generate, role: bulk, prompt: Hi.}}\noutput: answer\n"
    )
    with Fusion(profile="local", model=ScriptedModel("yes"), store=True) as fusion:
        fusion.complete(pipeline=desk.home / "one.yaml")
        (one,) = of(command("doctor", "--json"), "store")
        assert one["state"] == "ok"
    assert f"{desk.home / 'runs.db'}: 0." in one["words"]
    assert "version " in one["words"]
    assert "GB free" in one["words"]


STORES = {
    "another program's": (b"SQLite format 3\0" + bytes(100), "store"),
    "no database": (b"text " * 1000, "store"),
}


@pytest.mark.parametrize(("raw", "words"), STORES.values(), ids=STORES)
def test_a_store_that_is_none(desk: Desk, command: Command, raw: bytes, words: str) -> None:
    (desk.home / "other.db").write_bytes(raw)
    ran = command("doctor", "--store", str(desk.home / "other.db"), "--json")
    (one,) = of(ran, "store")
    assert (ran.code, one["state"]) == (2, "problem")
    assert words in one["words"]
    assert (desk.home / "other.db").read_bytes() == raw


def test_a_store_below_a_file(desk: Desk, command: Command) -> None:
    (desk.home / "file").write_text("")
    ran = command("doctor", "--store", str(desk.home / "file" / "runs.db"), "--json")
    assert (ran.code, of(ran, "store")[0]["state"]) == (2, "problem")


BROKEN = {
    "own file": ("own.toml", "[endpoints.x]\nmodle = 1\n", "own.toml:2:1 endpoints.x.modle: unknown key 'modle'"),
    "project's file": ("work/fusion.toml", "profile =\n", "fusion.toml:1:10"),
    "policy of the machine": ("etc/policy.toml", 'denny = ["x"]\n', "policy.toml:1:1 denny: unknown key 'denny'"),
}


@pytest.mark.parametrize(("name", "text", "words"), BROKEN.values(), ids=BROKEN)
def test_settings_that_cannot_be_read_do_not_end_it(
    desk: Desk, command: Command, name: str, text: str, words: str
) -> None:
    (desk.home / name).parent.mkdir(exist_ok=True)
    (desk.home / name).write_text(text)
    desk.patch.setenv("OPENAI_API_KEY", f"{SECRET} ")
    ran = command("doctor", "--json")
    assert ran.code == 2
    problems = [one for one in found(ran) if one["state"] == "problem"]
    assert problems
    assert any(words in one["words"] for one in problems)
    assert {"keys", "store", "prices"} <= {one["name"] for one in found(ran)}
    assert [one["state"] for one in of(ran, "keys")] == ["ok", "warning"]


def test_a_policy_in_force_is_named(desk: Desk, command: Command) -> None:
    desk.own.write_text('[policy]\ndeny = ["openai/gpt-5.5"]\ncontent = "digest"\n')
    (one,) = of(command("doctor", "--json"), "policy")
    assert one["words"].startswith(f"{desk.own}; it forbids openai/gpt-5.5 of the models in use; content: digest")


def test_prices(desk: Desk, command: Command) -> None:
    folder = price_file.price_folder()
    folder.mkdir(parents=True)
    (folder / "prices.json").write_text("{}")
    price_file.forget()
    checks = of(command("doctor", "--json"), "prices")
    assert (checks[0]["state"], checks[0]["advice"]) == ("warning", "fusion models update")
    assert "is damaged, and ignored" in checks[0]["words"]
    price_file.forget()


def test_it_loads_no_litellm_and_takes_little_time(desk: Desk) -> None:
    script = (
        "import sys; from fusion.cli.app import run_command; code = run_command(['doctor']); "
        "print('litellm' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=False, timeout=30
    )
    assert ran.returncode in (0, 2)
    assert ran.stderr.strip().endswith("False")
