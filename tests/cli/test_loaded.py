"""Commands load what they use: no library of another provider, no server, nothing that only draws."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.perf import server
from tests.cli.conftest import environment

HEAVY = {
    "aiohttp",
    "fusion.bench",
    "fusion.quote.simulate",
    "httpx",
    "jsonschema",
    "litellm",
    "mcp",
    "networkx",
    "numpy",
    "openai",
    "pyarrow",
    "rich",
    "sqlite3",
    "starlette",
    "tiktoken",
    "uvicorn",
}
RUN = ("run", "single", "What is the capital of Norway?")
HOSTED = ("-m", "openai/gpt-5.5")

# Runs a command, and prints the heavy modules that it has loaded, and the processes that it has started.
SCRIPT = """
import json, sys
from fusion.cli.app import run_command
started = []
sys.addaudithook(lambda name, given: started.append(name) if name in ("subprocess.Popen", "os.fork") else None)
code = run_command(sys.argv[2:])
print(json.dumps([code, sorted(set(json.loads(sys.argv[1])) & set(sys.modules)), started]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[server.Provider]:
    with server.running() as running:
        yield running


@pytest.fixture
def loaded(provider: server.Provider, tmp_path: Path) -> "Loaded":
    return Loaded(provider, tmp_path)


class Loaded:
    """Runs commands in processes of their own, with a store and a server."""

    def __init__(self, provider: server.Provider, folder: Path) -> None:
        self._provider = provider
        (folder / "fusion.toml").write_text(f'[endpoints.own]\nmodel = "mock"\napi_base = "{provider.root}/v1"\n')
        self._env = environment(
            OPENAI_API_KEY="none",
            GEMINI_API_KEY="none",
            OPENAI_BASE_URL=f"{provider.root}/v1",
            FUSION_STORE=str(folder / "runs.db"),
            FUSION_CONFIG=str(folder / "fusion.toml"),
            PYTHONWARNINGS="",
        )
        self.folder = folder

    def by(self, *words: str, calls: int = 0) -> set[str]:
        """Return the heavy modules that a command loads; it starts no process and makes so many calls."""
        before = self._provider.calls()
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(sorted(HEAVY)), *words],
            env=self._env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        code, modules, started = json.loads(done.stderr.splitlines()[-1])
        assert (code, started) == (0, []), done.stderr
        assert self._provider.calls() - before == calls
        return set(modules)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--help",), set()),
        (("validate", "single", "plan-execute-review", "vote"), set()),
        (("render", *RUN[1:2], "answer", *RUN[2:], *HOSTED), {"fusion.quote.simulate"}),
        ((*RUN, *HOSTED, "--dry-run"), {"fusion.quote.simulate"}),
        (("quote", *RUN[1:], *HOSTED), {"fusion.quote.simulate"}),
    ],
    ids=["help", "validate", "render", "dry run", "quote"],
)
def test_a_command_without_calls_loads_no_client(loaded: Loaded, words: tuple[str, ...], expected: set[str]) -> None:
    assert loaded.by(*words) == expected


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("openai/gpt-5.5", ()),
        ("openai/gpt-5.5", ("--json",)),
        ("openai/gpt-5.5", ("-q",)),
        ("own", ()),
        ("own", ("--no-store",)),
    ],
)
def test_a_run_loads_one_client(loaded: Loaded, model: str, more: tuple[str, ...]) -> None:
    kept = set() if "--no-store" in more else {"sqlite3"}
    assert loaded.by(*RUN, "-m", model, *more, calls=1) == {"aiohttp"} | kept


CHAIN = """
roles: {any: {chain: [openai/gpt-5.5, gemini/gemini-3.5-flash-lite]}}
stages: {answer: {kind: generate, role: any, prompt: Say hello to all the world.}}
output: answer
"""


def test_a_fallback_that_is_not_needed_loads_nothing(loaded: Loaded) -> None:
    (loaded.folder / "chain.yaml").write_text(CHAIN)
    assert loaded.by("run", "chain.yaml", calls=1) == {"aiohttp", "sqlite3"}


def test_a_run_answered_by_the_store_loads_no_provider(loaded: Loaded) -> None:
    shared = (*RUN, *HOSTED, "--cache", "shared")
    loaded.by(*shared, calls=1)
    assert loaded.by(*shared) == {"sqlite3"}


def test_a_finished_run_is_resumed_without_a_client(loaded: Loaded) -> None:
    loaded.by(*RUN, *HOSTED, "--events-to", "events.jsonl", calls=1)
    run_id = json.loads((loaded.folder / "events.jsonl").read_text().splitlines()[0])["run_id"]
    assert loaded.by("resume", run_id) == {"sqlite3"}
    assert loaded.by("runs", "show", run_id) == {"sqlite3"}
