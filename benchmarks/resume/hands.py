"""Runs with tools killed at random instants: results that are wrong, and calls that write made twice.

A map looks up and books its items, each with calls of two tools by a model, and a stage sends a letter about them.
One tool reads, two write. The process gets SIGKILL at a random instant, some runs up to four times, and the run is
resumed to its end. Where the run cannot know whether a call has taken effect it waits, and a person looks into the
records of the tools: a call that is there is not made again.

    python -m benchmarks.resume.hands [--runs 40] [--items 12] [--seed 0]

A run is right if it ends ok, every item has what its tools gave, and every booking and the letter are there once.
"""

import argparse
import asyncio
import json
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.perf.figures import machine
from benchmarks.resume.killed import any_run, in_child, only_run
from fusion import Fusion, Pipeline, Request, Result, Say, ScriptedModel
from fusion.core.types import Effect, Gate, ToolCall, ToolResult, ToolSpec
from fusion.store.open import open_store
from fusion.tools.base import Tool

_MOST_WAITS = 100
_BEFORE, _AFTER = 0.004, 0.004
"""Seconds of a call before and after it takes effect."""

PIPELINE = """
inputs: {what: Names of the items.}
stages:
  book:
    kind: map
    over: inputs.what.split()
    role: bulk
    concurrency: 4
    tools: [look_up, book]
    prompt: "Look up and book {{ item.source }}"
  letter: {kind: tool, tool: send, arguments: {text: "book | map(attribute='value') | join(', ')"}}
output: letter.text
"""


class Noted(Tool):
    """A tool that takes effect by a line in a file, in the middle of its call."""

    def __init__(self, name: str, effect: Effect, log: Path) -> None:
        self.spec = ToolSpec(name=name, parameters={"type": "object", "required": ["text"]})
        self.effect = effect
        self._log = log

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        await asyncio.sleep(_BEFORE * random.random())
        line = f"{json.dumps([self.spec.name, arguments['text']])} {time.time()}"
        with self._log.open("a") as log:
            log.write(f"{line}\n")
            log.flush()
            os.fsync(log.fileno())
        await asyncio.sleep(_AFTER * random.random())
        return ToolResult(f"{self.spec.name} gave {arguments['text']}")


def answer(request: Request) -> Say:
    """Look up an item, then book it, then say what both gave."""
    name = re.findall(r"book (\w+)", request.messages[-1 if len(request.messages) == 1 else 0].content)[-1]
    given = [message.content for message in request.messages if message.role == "tool"]
    if len(given) == 2:
        said = [re.findall(r"\w+ gave \w+|(?<=says: ).*", text)[0] for text in given]
        return Say(f"{name}: {', '.join(said)}")
    wanted = ("look_up", "book")[len(given)]
    call = ToolCall(id=f"{name}-{wanted}", name=wanted, arguments=json.dumps({"text": name}))
    return Say(finish_reason="tool_calls", tool_calls=(call,))


@dataclass
class Trial:
    """The result of one killed run: its kills, the questions to a person, and what went wrong."""

    kills: int = 0
    asked: int = 0
    written: int = 0
    twice: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not (self.faults or self.twice)


class Setting:
    """The store of one trial, the file in which its tools take effect, and the names of its items."""

    def __init__(self, folder: Path, items: int) -> None:
        self.store = folder / "runs.db"
        self.log = folder / "effects.jsonl"
        self.log.touch()
        self.names = [f"n{number}" for number in range(items)]

    def fusion(self) -> Fusion:
        tools = [
            Noted("look_up", "read", self.log),
            Noted("book", "write", self.log),
            Noted("send", "write", self.log),
        ]
        model = ScriptedModel(answer, name="scripted/model", delay=0.003)
        return Fusion(roles={"bulk": model}, tools=tools, store=self.store)

    def start(self) -> None:
        with self.fusion() as fusion:
            fusion.complete(inputs={"what": " ".join(self.names)}, pipeline=Pipeline.from_yaml(PIPELINE))

    def resume(self) -> None:
        with self.fusion() as fusion:
            fusion.resume(only_run(fusion.store))

    def grows(self) -> Callable[[], bool]:
        """Returns True once a tool has taken effect since now."""
        size = self.log.stat().st_size
        return lambda: self.log.stat().st_size > size

    def effects(self) -> Counter[tuple[str, str]]:
        """The effects of the tools so far."""
        lines = (line.rpartition(" ")[0] for line in self.log.read_text().splitlines())
        return Counter(tuple(json.loads(line)) for line in lines)

    def result(self) -> Result | None:
        store = open_store(self.store)
        try:
            data = store.result(only_run(store))
        finally:
            store.close()
        return None if data is None else Result.model_validate(data)

    def decide(self, gate: Gate) -> dict[str, Any]:
        """Return the answer of a person who looks whether a call has taken effect."""
        tool = re.findall(r"tool '(\w+)'", gate.text)[0]
        text = json.loads(re.findall(r"\{.*\}", gate.text)[0])["text"]
        there = self.effects()[tool, text] > 0
        return {"yes": not there, "text": f"{tool} gave {text}" if there else None, "by": "person"}


def warm() -> None:
    """Run once in this process, so that those forked off it need not load the libraries again."""
    with tempfile.TemporaryDirectory() as folder:
        Setting(Path(folder), 2).start()


def trial(items: int, instants: list[float], folder: Path) -> Trial:
    """Run once, killed at these seconds after the first effect of each process, then resumed to its end."""
    setting, outcome = Setting(folder, items), Trial()
    ended = False
    for instant in instants:
        begun = any_run(setting.store) if setting.store.exists() else False
        ended = in_child(setting.resume if begun else setting.start, instant, setting.grows())
        if ended:
            break
        outcome.kills += 1
    if not ended:
        in_child(setting.resume if any_run(setting.store) else setting.start, None)
    for _ in range(_MOST_WAITS):
        result = setting.result()
        if result is None or result.status != "waiting":
            break
        with setting.fusion() as fusion:
            for gate in result.waiting:
                outcome.asked += 1
                fusion.answer(result.run_id, gate.place, **setting.decide(gate))
        in_child(setting.resume, None)
    check(setting, outcome)
    return outcome


def check(setting: Setting, outcome: Trial) -> None:
    """Check the answer, and that every call that writes was made once."""
    result = setting.result()
    if result is None or result.status != "ok":
        outcome.faults.append("no result" if result is None else f"it ended {result.status}: {result.error}")
        return
    said = [f"{name}: look_up gave {name}, book gave {name}" for name in setting.names]
    if f"send gave {', '.join(said)}" not in result.text:
        outcome.faults.append(f"another answer: {result.text}")
    effects = setting.effects()
    wanted = {("book", name) for name in setting.names} | {("send", ", ".join(said))}
    written = {effect: count for effect, count in effects.items() if effect[0] != "look_up"}
    outcome.written = sum(written.values())
    outcome.twice = sum(count - 1 for count in written.values())
    if written.keys() != wanted:
        outcome.faults.append(f"calls missed or too many: {sorted(written.keys() ^ wanted)}")


def measured(items: int) -> float:
    """Return the seconds from the first effect to the end of a run without kills."""
    with tempfile.TemporaryDirectory() as folder:
        whole = trial(items, [], Path(folder))
        if not whole.right:
            raise SystemExit(f"a run without kills is wrong: {whole}")
        log = Path(folder) / "effects.jsonl"
        first = float(log.read_text().partition("\n")[0].rpartition(" ")[2])
        return log.stat().st_mtime - first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--items", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warm()
    chosen, longest = random.Random(given.seed), measured(given.items)
    print(f"{machine()}; a whole run takes {longest:.2f} s")
    trials = []
    for number in range(given.runs):
        instants = [chosen.uniform(0, longest) for _ in range(chosen.choice((1, 2, 3, 4)))]
        with tempfile.TemporaryDirectory() as folder:
            one = trial(given.items, instants, Path(folder))
        trials.append(one)
        print(
            f"{number + 1:3} killed {one.kills} times, {one.asked} questions, {one.written} calls that write, "
            f"{one.twice} of them twice: {'right' if one.right else 'WRONG'} {'; '.join(one.faults)}",
            flush=True,
        )
    right, kills = sum(one.right for one in trials), sum(one.kills for one in trials)
    print(
        f"{right} of {len(trials)} right; killed {kills} times; "
        f"questions to a person: {sum(one.asked for one in trials)}; calls that write: "
        f"{sum(one.written for one in trials)}, made twice: {sum(one.twice for one in trials)}; {machine()}"
    )


if __name__ == "__main__":
    main()
