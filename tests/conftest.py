"""What the tests share: scripted models that play the parts of a pipeline, and ways to run one."""

import functools
import itertools
import json
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Model, Pipeline, Result, RunFailed, ScriptedModel
from fusion.core.events import EventBase
from fusion.core.types import Request
from fusion.models.wrappers.retry import Retrying
from fusion.quote import quote
from fusion.store.open import open_store
from fusion.store.sqlite.store import SqliteStore

pytest_plugins = ["pytester", "tests.needs", "tests.postgres", "tests.workers"]

Write = Callable[[str], Path]
OWN = ("FUSION_PROFILE", "FUSION_STORE", "FUSION_CONFIG", "COLUMNS", "LINES")


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Processes that the tests start can be interrupted, also when the tests run in the background of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a folder with the next number; pytest would search all folders of the session for a free one."""
    base, numbers = tmp_path_factory.getbasetemp(), itertools.count()

    def make(name: str) -> Path:
        folder = base / f"{name}{next(numbers)}"
        folder.mkdir(mode=0o700)
        return folder

    return make


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, new_folder: Callable[[str], Path]) -> Path:
    return new_folder(re.sub(r"\W", "_", request.node.name)[:26])


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch, new_folder: Callable[[str], Path]) -> None:
    """No key and no setting of this machine's user reaches a test, and no test what that user keeps."""
    import os

    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_BASE_URL", "_API_BASE")) or name.startswith("OTEL_") or name in OWN:
            monkeypatch.delenv(name)
    state = new_folder("state")
    monkeypatch.setenv("FUSION_STORE", str(state / "runs.db"))
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(state / "config"))


def own_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a writer of the user's own fusion.toml, which FUSION_CONFIG names."""

    def written(text: str) -> Path:
        path = folder / "own" / "fusion.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        monkeypatch.setenv("FUSION_CONFIG", str(path))
        return path

    return written


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the user's own fusion.toml."""
    return own_settings(tmp_path, monkeypatch)


@pytest.fixture
def patient() -> None:
    """Outages are repeated as long as their patience lasts."""


@pytest.fixture(autouse=True)
def impatient(request: pytest.FixtureRequest) -> Iterator[None]:
    """A call has three attempts, whatever fails, unless the test is `patient`."""
    with pytest.MonkeyPatch.context() as patch:
        if "patient" not in request.fixturenames:
            patch.setattr(Retrying, "_is_spent", lambda self, tries: tries.number >= self._attempts)
        yield


@pytest.fixture(autouse=True, scope="session")
def rough() -> Iterator[None]:
    """A quote comes from a fifth of the simulated runs, unless the test is `precise`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quote, "quoted", functools.partial(quote.quoted, most_runs=24))
        yield


@pytest.fixture
def precise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes come from as many simulated runs as a user's."""
    monkeypatch.setattr(quote, "quoted", quote.quoted.func)  # type: ignore[attr-defined]


@pytest.fixture
def without_pauses() -> Iterator[None]:
    """Attempts follow each other at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retrying, "_jitter", lambda self, number: 0.0)
        yield


class FileStore(SqliteStore):
    """A store in `runs.db` of a folder, to be subclassed by tests that break one of its methods."""

    def __init__(self, folder: Path) -> None:
        path = folder / "runs.db"
        open_store(path).close()
        super().__init__(path)


def subtasks(count: int, **more: Any) -> list[dict[str, Any]]:
    """A plan's list of `count` subtasks."""
    return [
        {
            "title": f"part {n}",
            "instructions": f"do part {n}",
            "needs": [],
            "difficulty": 1,
            "capabilities": [],
            "expected_output": "a line",
            "criteria": [],
            **more,
        }
        for n in range(1, count + 1)
    ]


def plan_text(parts: list[dict[str, Any]]) -> str:
    """A planner's reply."""
    return json.dumps({"goal": "the goal", "constraints": ["short"], "merge_instructions": "join", "subtasks": parts})


def said(request: Request) -> str:
    """All that a request says."""
    return "\n".join(message.content for message in request.messages)


ACCEPT = {"issues": [], "verdict": "accept"}


def frontier(count: int = 3, *, verdict: Any = None, answer: Any = "the answer") -> Callable[[Request], Any]:
    """A script that plans `count` subtasks, accepts every result, and merges."""

    def script(request: Request) -> Any:
        words = said(request)
        if "You are the planner" in words:
            return plan_text(subtasks(count))
        if "You are the reviewer" in words:
            return verdict(request) if callable(verdict) else verdict or ACCEPT
        return answer(request) if callable(answer) else answer

    return script


@pytest.fixture
def fusion() -> Iterator[Callable[..., Fusion]]:
    """Makes Fusions on scripted models, and closes them."""
    made: list[Fusion] = []

    def make(roles: Mapping[str, Any] | None = None, **options: Any) -> Fusion:
        given = {
            role: model if isinstance(model, Model) else scripted(model, role)
            for role, model in (roles or {}).items()
        }
        made.append(Fusion(profile="local", roles=given, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def scripted(script: Any, role: str) -> ScriptedModel:
    return ScriptedModel(script, name=f"scripted/{role}")


def run(fusion: Fusion, prompt: str | None = "do it", **options: Any) -> tuple[Result, list[EventBase]]:
    """The Result, also of a run that failed, and its events."""
    events: list[EventBase] = []
    try:
        return fusion.complete(prompt, on_event=events.append, **options), events
    except RunFailed as failed:
        return failed.result, events


def pipeline(text: str) -> Pipeline:
    return Pipeline.from_yaml(text, file="test.yaml")
