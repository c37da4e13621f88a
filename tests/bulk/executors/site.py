"""A site: a folder, a provider that counts what it is asked, a database, and workers that serve it."""

import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, MapReport, RowResult
from fusion.bulk.handle import MapHandle
from fusion.core.events import EventBase, Noted
from tests.processes import started
from tests.provider import Answer, Provider, Seen

PIPELINE = """
name: two
inputs: {text: A row.}
stages:
  read: {kind: generate, role: bulk, prompt: "READ {{ inputs.text }}", max_tokens: 50}
  answer: {kind: generate, role: bulk, prompt: "ANSWER {{ read }}", max_tokens: 50}
output: answer
"""
GATED = """
name: gated
inputs: {text: A row.}
stages:
  read: {kind: generate, role: bulk, prompt: "READ {{ inputs.text }}", max_tokens: 50}
  ask: {kind: gate, show: "{{ read }}"}
  answer: {kind: generate, role: bulk, prompt: "ANSWER {{ read }}", needs: [ask], max_tokens: 50}
output: answer
"""
MODEL = "openai/gpt-4o-mini"
PATIENCE = 60.0


class Worker:
    """A process of `fusion worker`. Its requests carry its name as the key."""

    def __init__(self, folder: Path, name: str, words: Iterable[str]) -> None:
        self.name = name
        self._told = folder / f"{name}.jsonl"
        self._told.touch()
        given = ["worker", "--events", "--name", name, *words]
        self.process = started(_serve, given, str(self._told))

    @property
    def news(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._told.read_text().splitlines() if line.startswith("{")]

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def signal(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> int | None:
        """Wait for its end; the exit code."""
        self.process.join(PATIENCE)
        code: int | None = self.process.exitcode
        return code

    def wait_for(self, kind: str) -> dict[str, Any]:
        """The first news of this kind, once there is some."""
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.02)):
            found = [one for one in self.news if one["type"] == kind]
            if found:
                return found[0]
            pause.wait(0.02)
        raise AssertionError(f"{self.name} tells no {kind!r}: {self._told.read_text()}")


def _serve(words: list[str], told: str) -> None:
    hasten()
    out = os.open(told, os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    from fusion.cli.app import run_command

    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os._exit(run_command(words))


def hasten() -> None:
    """Let workers beat ten times as often in this process, so that their deaths are seen soon."""
    from fusion.bulk.executors import service, workers
    from fusion.store import slices
    from fusion.store.postgres import slices as queue

    for module in (service, workers, slices):
        module.BEAT = 0.2  # type: ignore[attr-defined]
    for module in (slices, queue):
        module.LATE = 0.6  # type: ignore[attr-defined]


class Site:
    """A folder with a pipeline and rows, and what runs them."""

    def __init__(self, folder: Path, provider: Provider, database: str, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.provider = provider
        self.database = database
        self.notes: list[str] = []
        self.workers: list[Worker] = []
        self.on_call: Callable[[str, str], Answer] = lambda text, key: Answer(text.lower())
        provider.script = self._answer
        self._patch = patch
        self.set_key("sk-driver")
        for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
            patch.setenv(name, provider.url)
        (folder / "two.yaml").write_text(PIPELINE)

    def set_key(self, key: str | None) -> None:
        """Set the key of the processes that start from now on."""
        if key is None:
            self._patch.delenv("OPENAI_API_KEY")
        else:
            self._patch.setenv("OPENAI_API_KEY", key)

    def _answer(self, seen: Seen) -> Answer:
        return self.on_call(seen.body["messages"][-1]["content"], key_of(seen))

    @property
    def asked(self) -> Counter[str]:
        """The number of requests for each text."""
        return Counter(seen.body["messages"][-1]["content"] for seen in self.provider.requests)

    @property
    def keys(self) -> set[str]:
        """The keys of all requests."""
        return {key_of(seen) for seen in self.provider.requests}

    def was_asked(self, text: str, times: int = 1) -> bool:
        """Wait until the provider was asked this so often; return False if it is not in time."""
        return self.provider.wait_until(lambda _: self.asked[text] >= times, seconds=PATIENCE)

    # Workers and maps.

    def worker(self, name: str, *words: str, key: str | None = "") -> Worker:
        """Start a worker whose requests carry its name as their key."""
        self.set_key(name if key == "" else key)
        made = Worker(self.folder, name, ["--store", self.database, *words])
        self.set_key("sk-driver")
        self.workers.append(made)
        return made

    def rows(self, *texts: str) -> str:
        path = self.folder / "rows.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return str(path)

    def fusion(self) -> Fusion:
        return Fusion(model=MODEL, store=self.database)

    def options(self, **more: Any) -> dict[str, Any]:
        given = {"pipeline": self.folder / "two.yaml", "id": "m", "key": "text", "output": self.folder / "out.jsonl"}
        return {**given, "on": "workers", "on_event": self._hear, **more}

    def start(self, fusion: Fusion, *texts: str, **more: Any) -> MapHandle:
        return fusion.start_map(self.rows(*texts), **self.options(**more))

    def map(self, *texts: str, **more: Any) -> tuple[dict[str, RowResult], MapReport]:
        """Run a map; its rows by key, and the report."""
        found: dict[str, RowResult] = {}
        with self.fusion() as fusion:
            rows = fusion.map(self.rows(*texts), **self.options(**more))
            with suppress(Exception):
                for row in rows:
                    found[row.key] = row
            assert rows.report is not None
            return found, rows.report

    def _hear(self, event: EventBase) -> None:
        if isinstance(event, Noted):
            self.notes.append(event.message)

    @property
    def written(self) -> dict[str, str]:
        """The answer of each row in the output, in which none is twice."""
        lines = [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]
        keys = [line["key"] for line in lines]
        assert len(keys) == len(set(keys)), keys
        return {line["key"]: line["answer"] for line in lines}

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()


def key_of(seen: Seen) -> str:
    return seen.headers["authorization"].removeprefix("Bearer ")
