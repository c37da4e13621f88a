"""Scene: a map of many rows, the provider that answers it, and the checks of its end."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from fusion.store.open import open_store
from fusion.store.rows import RunFilter

MAP: Final = "killed"
CALLS: Final = 3
USD_A_CALL: Final = Decimal("0.00011")
"""90 tokens at $1 a million, and 10 at $2."""
_REPLY: Final = re.compile(r"in reply (\d+)")
_PIPELINE: Final = """
name: three
inputs: {text: A row.}
defaults: {max_tokens: 50}
roles: {any: {chain: [mock]}}
stages:
  first: {kind: generate, role: any, prompt: "WORK {{ inputs.text }}"}
  second: {kind: generate, role: any, prompt: "POLISH {{ first }}"}
  third: {kind: generate, role: any, prompt: "POLISH once more {{ second }}"}
output: third
"""


class Scene:
    """A folder with a table, a pipeline and settings, and a provider whose calls take so many seconds."""

    def __init__(self, folder: Path, rows: int, seconds: float) -> None:
        self.folder = folder
        self.rows = rows
        self.seconds = seconds
        self.table, self.pipeline, self.output = (folder / name for name in ("rows.jsonl", "three.yaml", "out.jsonl"))
        self.config, self.log = folder / "fusion.toml", folder / "provider.jsonl"
        self.marks = [f"row-{number:012x}" for number in range(rows)]
        lines = (f'{{"id": "{number}", "text": "{mark}"}}\n' for number, mark in enumerate(self.marks))
        self.table.write_text("".join(lines))
        self.pipeline.write_text(_PIPELINE)
        delay = (str(0.5 * seconds), str(1.5 * seconds))
        command = [sys.executable, "-m", "benchmarks.resume.provider", str(self.log), *delay]
        self._provider = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._provider.stdout is not None
        port = int(self._provider.stdout.readline())
        self.config.write_text(
            f'[endpoints.mock]\nmodel = "mock"\napi_base = "http://127.0.0.1:{port}/v1"\n'
            "price = {input = 1, output = 2}\ncontext = 200000\n"
        )

    def close(self) -> None:
        self._provider.kill()
        self._provider.wait()

    def map(self, store: str, on: str, usd: Decimal | None, options: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Start the process of the map; the same again goes on with it."""
        words = ["map", str(self.pipeline), str(self.table), "--id", MAP, "--key", "id", "-o", str(self.output)]
        words += ["--store", store, "--config", str(self.config), "--on", on, "-q", *options]
        words += ["--budget", f"usd={usd}"] if usd else []
        return fusion(words, self.folder / "map.log")

    def logged(self, what: str = "asked") -> list[dict[str, Any]]:
        lines = self.log.read_text().split("\n")[:-1]
        return [line for line in map(json.loads, lines) if line["what"] == what]

    @property
    def answered(self) -> int:
        """Return the calls that the provider has answered."""
        return self.log.read_text().count('"what": "answered"')


def fusion(words: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a command in a process group of its own; what it prints is added to a file."""
    with log.open("ab") as file:
        command = [sys.executable, "-m", "fusion", *words]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Checked:
    """The end of a map, by its output, its store and the log of its provider."""

    def __init__(self, scene: Scene, store: str) -> None:
        self.asked = scene.logged()
        self.usd = len(self.asked) * USD_A_CALL
        lines = [json.loads(line) for line in scene.output.read_text().splitlines()] if scene.output.exists() else []
        written = Counter(int(line["key"]) for line in lines)
        self.lost = scene.rows - len(written)
        self.twice = sum(count > 1 for count in written.values())
        self.mixed_up = sum(scene.marks[int(line["key"])] not in str(line["answer"]) for line in lines)
        self.journaled = _journaled(store)
        self.again = len(self.asked) - len({line["digest"] for line in self.asked})
        self.repeated = repeated(self.asked, self.journaled)

    @property
    def right(self) -> bool:
        """Return True if no row is written twice or mixed up, and no journaled call was sent again."""
        return not (self.twice or self.mixed_up or self.repeated)


def repeated(asked: Sequence[Mapping[str, Any]], journaled: frozenset[int]) -> int:
    """Count the requests that came although their call was in the journal, by the numbers of its replies.

    The journal keeps the first reply of a call. If the call was requested once more after that reply's request,
    it was requested although it was in the journal, or twice at the same time.
    """
    numbers = defaultdict(list)
    for line in asked:
        numbers[line["digest"]].append(line["number"])
    kept = ((reply, all_of) for all_of in numbers.values() for reply in journaled.intersection(all_of))
    return sum(number > reply for reply, all_of in kept for number in all_of)


def _journaled(place: str) -> frozenset[int]:
    """Return the numbers of the provider's replies that are in the journals of the rows."""
    store = open_store(place)
    try:
        runs = [row.run_id for row in store.runs(RunFilter(map=MAP))]
        replies = (call.reply for run_id in runs for call in store.calls(run_id, texts=True))
        texts = (reply.text for reply in replies if reply is not None)
        return frozenset(int(number) for text in texts for number in _REPLY.findall(text))
    finally:
        store.close()
