"""A map over the client port of a Ray head that asks for a token, ways not to be joined to it, and its death."""

import os
import platform
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import ray
from ray._private.utils import check_version_info

from tests.bulk.executors.ray import head
from tests.bulk.executors.ray.ground import SETTINGS, Ground, based, kill_all_of
from tests.provider import Answer, Provider

pytestmark = [pytest.mark.needs("initdb"), pytest.mark.xdist_group("ray")]

HEAD_KEY = "sk-test-of-head"
TOKEN = secrets.token_hex(16)
BEARER = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
PATH = os.pathsep.join(sys.path)
ROWS = 12
ASK = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` prints on the head of the cluster"


class Head(Ground):
    """The ground of a cluster of one node, by `ray start --head`. Ray asks for the token that is in its home."""

    def __init__(self, provider: Provider, home: Path) -> None:
        self.home = {"HOME": str(home), "RAY_TMPDIR": str(home)}
        super().__init__(provider, {"HOME": str(home / "of-driver"), "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "3"})
        self.port, self.gcs_port = _free_port(), _free_port()
        self._log = home / "head.log"
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(TOKEN)
        self._env = {**os.environ, **SETTINGS, **self.home, **based(provider), "PYTHONPATH": PATH}
        self._env["OPENAI_API_KEY"] = HEAD_KEY

    @property
    def on(self) -> str:
        return f"ray://127.0.0.1:{self.port}"

    def start(self) -> None:
        ports = ("--port", str(self.gcs_port), "--ray-client-server-port", str(self.port))
        small = ("--num-cpus", "1", "--include-dashboard", "false", "--object-store-memory", "80000000")
        command = [sys.executable, "-m", head.__name__, "start", "--head", "--block", *ports, *small]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, env=self._env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        pause = threading.Event()
        while not _answers(self.port):
            assert self._process.poll() is None, self._log.read_text()
            pause.wait(0.1)

    def kill(self) -> None:
        kill_all_of(self._process.pid)
        self._process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def up() -> Iterator[Head]:
    """A head whose folder has a short name: Ray puts sockets below it."""
    with Provider() as provider, TemporaryDirectory(prefix="ray-") as home:
        made = Head(provider, Path(home))
        made.start()
        yield made
        made.kill()


@pytest.fixture
def ground(up: Head, tmp_path: Path, database: str) -> Head:
    up.begin(tmp_path, database, rows=ROWS)
    return up


@pytest.fixture
def alone(tmp_path: Path, database: str) -> Iterator[Ground]:
    """The ground of a map without any cluster."""
    with Provider() as provider:
        made = Ground(provider, {})
        made.begin(tmp_path, database, rows=1)
        yield made


def test_a_map_runs_over_the_client_port(ground: Head) -> None:
    code, report, said = ground.ended(ground.driver("--json", on=ground.on, env=BEARER))
    assert (code, report["ok"]) == (0, ROWS), said
    assert set(ground.keys) == {HEAD_KEY}
    assert max(ground.calls.values()) == 1
    assert ground.answers() == sorted(f"answer read row {number}" for number in range(1, ROWS + 1))


def test_a_cluster_of_this_machine_is_joined_with_its_token(ground: Head) -> None:
    code, report, said = ground.ended(ground.driver("--json", on="ray", env=ground.home))
    assert (code, report["ok"]) == (0, ROWS), said
    assert set(ground.keys) == {HEAD_KEY}


@pytest.mark.parametrize(
    ("on", "env", "says"),
    [
        ("ray://127.0.0.1:{port}", {}, "refuses the token of this machine"),
        ("ray://127.0.0.1:{port}", {**BEARER, "RAY_AUTH_TOKEN": "wrong"}, "refuses the token of this machine"),
        ("ray://127.0.0.1:{port}", {"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE is token, and this machine has none"),
        ("ray", {"RAY_ADDRESS": "127.0.0.1:{gcs_port}"}, "refuses the token of this machine"),
    ],
    ids=["no token", "another token", "no token where one is needed", "no token for the GCS"],
)
def test_a_cluster_that_asks_for_a_token(ground: Head, on: str, env: dict[str, str], says: str) -> None:
    ports = {"port": ground.port, "gcs_port": ground.gcs_port}
    env = {name: value.format(**ports) for name, value in env.items()}
    said = ground.refused(ground.driver("-q", on=on.format(**ports), env=env))
    assert says in said
    assert ASK in said
    assert TOKEN not in said
    assert not ground.provider.requests


def test_the_ports_of_a_cluster_are_told_apart(ground: Head) -> None:
    said = ground.refused(ground.driver("-q", on=f"ray://127.0.0.1:{ground.gcs_port}", env=BEARER))
    assert "is another port of a Ray cluster: that of ray:// is 10001 unless it was set" in said


def test_a_map_goes_on_after_the_death_of_the_head(ground: Head) -> None:
    ground.on_call = lambda text: Answer(text.lower(), delay=0.3)
    driver = ground.driver("--json", "--concurrency", "4", on=ground.on, env=BEARER)
    assert ground.asked(ROWS)
    ground.kill()
    code, report, said = ground.ended(driver)
    assert (code, report["status"]) == (3, "failed"), said
    assert "the connection to the Ray cluster is lost" in said
    assert "start the cluster again if its head is gone, then the map with the same command" in said
    assert "Traceback" not in said
    ground.start()
    code, report, said = ground.ended(ground.driver("--json", "--concurrency", "4", on=ground.on, env=BEARER))
    assert (code, report["ok"]) == (0, ROWS), said
    assert ground.answers() == sorted(f"answer read row {number}" for number in range(1, ROWS + 1))
    assert len(ground.provider.requests) <= 2 * ROWS + 4


# Without a cluster.


def test_no_server_at_the_address(alone: Ground) -> None:
    port = _free_port()
    said = alone.refused(alone.driver("-q", on=f"ray://127.0.0.1:{port}"))
    assert (
        f"no Ray cluster answers at ray://127.0.0.1:{port}: check the address, and that the head runs there" in said
    )
    assert "10001" in said


OWN = (ray.__version__, platform.python_version())


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (
            ("2.50.0", OWN[1]),
            f"has Ray 2.50.0, and this process Ray {OWN[0]}: run `pip install 'ray[client]==2.50.0'` here, ",
        ),
        ((OWN[0], "3.99.1"), f"has Python 3.99.1, and this process Python {OWN[1]}: use Python 3.99.1 here, "),
        (("2.50.0", "3.99.1"), "run `pip install 'ray[client]==2.50.0'` and use Python 3.99.1 here, "),
    ],
    ids=["Ray", "Python", "both"],
)
def test_versions_that_differ_are_named(alone: Ground, there: tuple[str, str], says: str) -> None:
    """Ray's own check gives the message; a package of that name raises it, since no other version is installed."""
    with pytest.raises(RuntimeError, match="Version mismatch") as refused:
        check_version_info(
            {"ray_version": there[0], "python_version": there[1]}, "Ray Client", python_version_match_level="minor"
        )
    on, said, tries = refused_by_scripted_ray(alone, str(refused.value))
    assert f"the Ray cluster at {on} has " in said
    assert f"{says}or change the cluster" in said
    assert tries == 1


def test_a_head_that_cannot_serve_a_client_is_asked_again(alone: Ground) -> None:
    """The message is that of Ray when the process that its head forks for a client has crashed; it is scripted."""
    message = (
        "Initialization failure from server:\nTraceback (most recent call last):\n  File 'proxier.py', line 772\n"
        "RuntimeError: Starting Ray client server failed. See ray_client_server_23000.err for detailed logs.\n"
    )
    on, said, tries = refused_by_scripted_ray(alone, message)
    assert f"the Ray cluster at {on} cannot be joined: Starting Ray client server failed. See ray_client" in said
    assert tries == 3


def refused_by_scripted_ray(alone: Ground, message: str) -> tuple[str, str, int]:
    """Run a map with a package `ray` that refuses each connection; the address, the error, and the connections."""
    tried = alone.folder / "tried"
    scripted = alone.folder / "scripted" / "ray" / "__init__.py"
    scripted.parent.mkdir(parents=True)
    scripted.write_text(_SCRIPTED.format(tried=str(tried), message=message))
    with socket.create_server(("127.0.0.1", 0)) as server:
        on = f"ray://127.0.0.1:{server.getsockname()[1]}"
        env = {"PYTHONPATH": f"{scripted.parents[1]}{os.pathsep}{PATH}"}
        said = alone.refused(alone.driver("-q", on=on, env=env))
    return on, said, len(tried.read_text())


_SCRIPTED = """
def init(*given, **named):
    with open({tried!r}, "a") as file:
        file.write(".")
    raise RuntimeError({message!r})
"""
