"""Runs killed at random instants and resumed: results lost, mixed up, or paid for twice.

Each run plans 200 parts with a planner whose answers never repeat, works and reviews them item by item, and merges
them, over HTTP. Its process gets SIGKILL at a random instant, by default at most twice; then it is resumed to its
end. Requests and replies are counted at the provider.

    python -m benchmarks.resume.killed [--runs 50] [--items 200] [--pipeline reviewed|chain] [--seed 0]

A run is right if it ends ok, and every part was worked on as that part and merged in order. No finished call is sent
again, and no other call is sent more than once more for each kill.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.perf.figures import machine
from fusion import Fusion, Result, Settings
from fusion.store.base import Store
from fusion.store.open import open_store
from fusion.store.rows import RunFilter

_REPLY = re.compile(r"in reply (\d+)")

PIPELINES = {
    "reviewed": """
name: reviewed
inputs: {task: What is to be done.}
budget: {usd: 5, calls: 5000}
roles: {any: {chain: [mock]}}
stages:
  plan: {kind: plan, role: any, max_subtasks: ITEMS, prompt: "PLAN {{ inputs.task }}"}
  work: {kind: map, over: plan, role: any, concurrency: 32, prompt: "WORK {{ item.instructions }}"}
  review: {kind: review, over: work, role: any, concurrency: 32, prompt: "REVIEW {{ item }} of {{ item.source }}"}
  answer: {kind: merge, over: review, role: any, prompt: "MERGE {% for item in items %}{{ item }}\\n{% endfor %}"}
output: answer
""",
    "chain": """
name: chain
inputs: {task: What is to be done.}
budget: {usd: 5, calls: 5000}
roles: {any: {chain: [mock]}}
stages:
  plan: {kind: plan, role: any, max_subtasks: ITEMS, prompt: "PLAN {{ inputs.task }}"}
  work: {kind: map, over: plan, role: any, concurrency: 32, prompt: "WORK {{ item.instructions }}"}
  polish: {kind: map, over: work, role: any, concurrency: 32, prompt: "POLISH {{ item }}"}
  answer: {kind: merge, over: polish, role: any, prompt: "MERGE {% for item in items %}{{ item }}\\n{% endfor %}"}
output: answer
""",
}


class Cut(NamedTuple):
    """A kill: the number of lines in the provider's log, and the replies in the store at that time."""

    line: int
    finished: set[int]


@dataclass
class Trial:
    """The result of one killed run."""

    kills: int = 0
    finished_before: int = 0
    sent: int = 0
    sent_again: int = 0
    finished_again: int = 0
    too_often: int = 0
    mixed_up: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not (self.faults or self.finished_again or self.too_often or self.mixed_up)


class Setting:
    """A provider, a store and a settings file of one trial."""

    def __init__(self, folder: Path, pipeline: str) -> None:
        self.store = folder / "runs.db"
        self.log = folder / "provider.jsonl"
        self.file = folder / "pipeline.yaml"
        self.file.write_text(pipeline)
        command = [sys.executable, "-m", "benchmarks.resume.provider", str(self.log)]
        self.provider = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.provider.stdout is not None
        port = int(self.provider.stdout.readline())
        toml = folder / "fusion.toml"
        toml.write_text(
            f'[endpoints.mock]\nmodel = "mock"\napi_base = "http://127.0.0.1:{port}/v1"\n'
            "price = {input = 1, output = 2}\ncontext = 200000\n"
        )
        self.settings = Settings.from_environment(config=toml)

    def close(self) -> None:
        self.provider.kill()
        self.provider.wait()

    def grows(self) -> Callable[[], bool]:
        """Returns True once the provider has received a request since now."""
        size = self.log.stat().st_size
        return lambda: self.log.stat().st_size > size

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def in_child(work: Any, kill_after: float | None, begun: Callable[[], bool] = lambda: True) -> bool:
    """Do the work in a child process; with `kill_after` it gets SIGKILL this many seconds after it has `begun`.

    Returns True if it finished.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:  # noqa: BLE001 - the end of a process
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    if kill_after is not None:
        until = None
        while until is None or time.monotonic() < until:
            if until is None and begun():
                until = time.monotonic() + kill_after
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status == 0
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0


def trial(items: int, shape: str, instants: list[float], folder: Path) -> Trial:
    """Run once, killed at these seconds after its start and after each resumption, then resumed to its end."""
    setting, outcome = Setting(folder, PIPELINES[shape].replace("ITEMS", str(items))), Trial()

    def start() -> None:
        with Fusion(settings=setting.settings, store=setting.store) as fusion:
            fusion.complete(f"{items} parts", pipeline=setting.file)

    def resume() -> None:
        with Fusion(settings=setting.settings, store=setting.store) as fusion:
            fusion.resume(only_run(fusion.store))

    try:
        cuts: list[Cut] = []
        ended = False
        for number, instant in enumerate(instants):
            ended = in_child(start if number == 0 else resume, instant, setting.grows())
            if ended:
                break
            outcome.kills += 1
            cuts.append(Cut(len(setting.logged()), finished_replies(setting.store)))
        outcome.finished_before = len(cuts[-1].finished) if cuts else 0
        if not ended and not any_run(setting.store):  # killed before the run had its record: nothing was sent either
            ended = in_child(start, None)
        elif not ended:
            ended = in_child(resume, None)
        if not ended:
            outcome.faults.append("the resumed run did not end")
        count_sent(setting.logged(), cuts, outcome)
        check_result(setting.store, items, shape, outcome)
    finally:
        setting.close()
    return outcome


def any_run(path: Path) -> bool:
    store = open_store(path)
    try:
        return bool(store.runs(RunFilter(), limit=1))
    finally:
        store.close()


def only_run(store: Store) -> str:
    (row,) = store.runs(RunFilter())
    return row.run_id


def finished_replies(path: Path) -> set[int]:
    """Return the numbers of the provider's replies that the store has for finished calls."""
    store = open_store(path)
    try:
        return {reply for row in store.runs(RunFilter()) for reply in replies_in(store, row.run_id)}
    finally:
        store.close()


def replies_in(store: Store, run_id: str) -> set[int]:
    """Return the numbers of the provider's replies that a run has finished calls with."""
    found: set[int] = set()
    for call in store.calls(run_id, texts=True):
        if call.reply is not None:
            found.update(int(number) for number in _REPLY.findall(call.reply.text))
    return found


def count_sent(logged: list[dict[str, Any]], cuts: list[Cut], outcome: Trial) -> None:
    """Count repeated requests at the provider, and those among them that were finished before."""
    asked = [line for line in logged if line["what"] == "asked"]
    digest_of = {line["number"]: line["digest"] for line in asked}
    times = Counter(line["digest"] for line in asked)
    outcome.sent = len(asked)
    outcome.sent_again = sum(count - 1 for count in times.values())
    outcome.too_often = sum(count > 1 + len(cuts) for count in times.values())
    again: set[int] = set()
    for cut in cuts:
        finished = {digest_of[number] for number in cut.finished}
        after = (line for line in logged[cut.line :] if line["what"] == "asked")
        again.update(line["number"] for line in after if line["digest"] in finished)
    outcome.finished_again = len(again)


def check_result(path: Path, items: int, shape: str, outcome: Trial) -> None:
    """Check that every part was worked on as itself, and all were merged in order."""
    store = open_store(path)
    try:
        data = store.result(only_run(store))
    finally:
        store.close()
    if data is None:
        outcome.faults.append("there is no result")
        return
    result = Result.model_validate(data)
    if result.status != "ok":
        outcome.faults.append(f"it ended {result.status}")
    marks = [item.source["instructions"] for item in result.stages["plan"].items]
    if len(marks) != items:
        outcome.faults.append(f"{len(marks)} parts of {items}")
    for stage in ("work", "review" if shape == "reviewed" else "polish"):
        worked = result.stages[stage].items
        outcome.mixed_up += sum(item.source["instructions"] not in str(item.value) for item in worked)
        if [item.index for item in worked] != list(range(len(marks))):
            outcome.faults.append(f"the items of {stage} are not those of the plan")
    if result.text.partition(" in reply ")[0].split() != marks:
        outcome.faults.append("the merged answer is not of these parts in their order")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--pipeline", choices=PIPELINES, default="reviewed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--longest", type=float, default=None, help="seconds of a whole run; measured where not given"
    )
    given = parser.parse_args()
    os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_MODE="PRODUCTION")
    import litellm  # noqa: F401 - once, for all the processes that are forked off this one

    chosen = random.Random(given.seed)
    longest = given.longest or measured(given.items, given.pipeline)
    print(f"{machine()}; a whole run takes {longest:.2f} s")
    trials = []
    for number in range(given.runs):
        instants = [chosen.uniform(0, longest) for _ in range(chosen.choice((1, 1, 2)))]
        with tempfile.TemporaryDirectory() as folder:
            one = trial(given.items, given.pipeline, instants, Path(folder))
        trials.append(one)
        print(
            f"{number + 1:3} killed {one.kills} times at {', '.join(f'{at:.2f}' for at in instants)} s: "
            f"{one.finished_before} finished before, {one.sent} sent, {one.sent_again} of them again "
            f"({one.finished_again} finished), {one.mixed_up} mixed up: {'right' if one.right else 'WRONG'} "
            f"{'; '.join(one.faults)}",
            flush=True,
        )
    print(
        f"{given.pipeline}: {sum(one.right for one in trials)} of {len(trials)} right; killed "
        f"{sum(one.kills for one in trials)} times; finished calls sent again: "
        f"{sum(one.finished_again for one in trials)}; others sent again: "
        f"{sum(one.sent_again - one.finished_again for one in trials)}, too often: "
        f"{sum(one.too_often for one in trials)}; items with another's result: "
        f"{sum(one.mixed_up for one in trials)}; {machine()}"
    )


def measured(items: int, shape: str) -> float:
    """Return seconds of a run without kills."""
    with tempfile.TemporaryDirectory() as folder:
        whole = trial(items, shape, [600.0], Path(folder))
        if not whole.right:
            raise SystemExit(f"a run without kills is wrong: {whole}")
        log = [json.loads(line)["at"] for line in (Path(folder) / "provider.jsonl").read_text().splitlines()]
        return float(log[-1] - log[0])


if __name__ == "__main__":
    main()
