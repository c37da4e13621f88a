"""A site: a folder, a provider that counts what it is asked, a database, and workers that serve it."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
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


class Ran:
    """A process whose output is in a file."""

    def __init__(self, folder: Path, name: str, work: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        self._output = folder / f"{name}.out"
        self.process = started(work, *arguments, output=self._output)

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def failed(self) -> bool:
        """True if it has ended with an error, and not by SIGKILL."""
        return self.process.exitcode not in (None, 0, -signal.SIGKILL)

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

    def __str__(self) -> str:
        return f"{self.name} (exit code {self.process.exitcode}):\n{self.output}"


class Worker(Ran):
    """A process of `fusion worker`. Its requests carry its name as the key."""

    def __init__(self, folder: Path, name: str, words: Iterable[str]) -> None:
        super().__init__(folder, name, command, ["worker", "--events", "--name", name, *words])

    @property
    def news(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]

    def wait_for(self, kind: str, times: int = 1) -> dict[str, Any]:
        """The news of this kind that came so many times, once it has."""
        pause, end = threading.Event(), time.monotonic() + PATIENCE
        while True:
            over = self.process.exitcode is not None or time.monotonic() > end
            found = [one for one in self.news if one["type"] == kind]
            if len(found) >= times:
                return found[times - 1]
            if over:
                raise AssertionError(f"no {kind!r} from {self}")
            pause.wait(0.02)


def command(words: list[str]) -> None:
    """Run a command of `fusion`, as the work of a process."""
    hasten()
    from fusion.cli.app import run_command

    os._exit(run_command(words))


def hasten() -> None:
    """Let workers beat ten times as often in this process, so that their deaths are seen soon.

    They count as alive as long as ever: those of a busy machine are late by more than that.
    """
    for module, name, seconds in hastened():
        setattr(module, name, seconds)


def hastened() -> list[tuple[ModuleType, str, float]]:
    """Return what `hasten` sets, by module and name."""
    from fusion.bulk.executors import service, workers
    from fusion.store.postgres import slices

    return [(service, "BEAT", 0.2), (workers, "BEAT", 0.2), (slices, "LATE", 0.6)]


class Site:
    """A folder with a pipeline and rows, and what runs them."""

    def __init__(self, folder: Path, provider: Provider, database: str, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.provider = provider
        self.database = database
        self.notes: list[str] = []
        self.workers: list[Worker] = []
        self._others: list[Ran] = []
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

    def wait_for_call(self, text: str, times: int = 1) -> None:
        """Wait until the provider was asked this so often."""
        self.wait_until(lambda: self.asked[text] >= times, f"{times} × {text!r}")

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until something has happened. Raises AssertionError if it is not in time, or if a process fails."""
        end = time.monotonic() + PATIENCE
        while not self.provider.wait_until(lambda _: true(), seconds=0.1):
            processes: list[Ran] = [*self.workers, *self._others]
            if time.monotonic() > end or any(one.failed for one in processes):
                story = "\n".join([f"asked: {dict(self.asked)}", *map(str, processes)])
                raise AssertionError(f"no {what}\n{story}")

    def wait_for_queue(self, fusion: Fusion, rows: int, map_id: str = "m") -> None:
        """Wait until so many rows of a map wait or run."""
        self.wait_until(lambda: len(fusion.store.slices.under_way(map_id)) == rows, f"{rows} rows in the queue")

    # Workers and maps.

    def worker(self, name: str, *words: str, key: str | None = "") -> Worker:
        """Start a worker whose requests carry its name as their key."""
        self.set_key(name if key == "" else key)
        made = Worker(self.folder, name, ["--store", self.database, *words])
        self.set_key("sk-driver")
        self.workers.append(made)
        return made

    def run(self, name: str, work: Callable[..., None], *arguments: Any) -> Ran:
        """Start a process with this work, which `close` ends."""
        made = Ran(self.folder, name, work, *arguments)
        self._others.append(made)
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
        for one in (*self.workers, *self._others):
            one.kill()


def key_of(seen: Seen) -> str:
    return seen.headers["authorization"].removeprefix("Bearer ")
