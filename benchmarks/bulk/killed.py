"""A map that is killed at random instants and started again: rows lost or written twice, calls paid for twice.

    python -m benchmarks.bulk.killed [--rows 2000] [--kills 30] [--seed 0]

Each row makes two calls over HTTP to a provider whose answers never repeat. The process of the map gets SIGKILL at a
random instant after its first request, so many times; then it is started again to its end. Requests are counted at
the provider. A map is right if every row is in the output once with its own answer, no finished call was sent again,
and no other call more than once more for each kill.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.perf.figures import machine
from benchmarks.resume.killed import Cut, Setting, Trial, count_sent, in_child, replies_in
from fusion import Fusion
from fusion.store.open import open_store
from fusion.store.rows import RunFilter

_MAP = "killed"
_PIPELINE = """
name: two
inputs: {text: A row.}
roles: {any: {chain: [mock]}}
stages:
  work: {kind: generate, role: any, prompt: "WORK {{ inputs.text }}"}
  answer: {kind: generate, role: any, prompt: "POLISH {{ work }}"}
output: answer
"""


def trial(rows: int, kills: int, chosen: random.Random, folder: Path) -> Trial:
    """Map so many rows, killed so many times."""
    setting, outcome = Setting(folder, _PIPELINE), Trial()
    table, output = folder / "rows.jsonl", folder / "out.jsonl"
    marks = [f"row-{number:012x}" for number in range(rows)]
    table.write_text("".join(f'{{"id": "{number}", "text": "{mark}"}}\n' for number, mark in enumerate(marks)))

    def work() -> None:
        with Fusion(settings=setting.settings, store=setting.store) as fusion:
            report = fusion.start_map(
                str(table), pipeline=setting.file, id=_MAP, key="id", output=output, concurrency=32
            ).wait()
            if report.exit_code:
                raise SystemExit(f"the map ended with {report.exit_code}: {report.failure}")

    try:
        cuts: list[Cut] = []
        ended, longest = False, _seconds(rows) * 2 / (kills + 1)
        while not ended and outcome.kills < kills:
            ended = in_child(work, chosen.uniform(0, longest), setting.grows())
            if not ended:
                outcome.kills += 1
                cuts.append(Cut(len(setting.logged()), finished(setting.store)))
        if not ended and not in_child(work, None):
            outcome.faults.append("the map did not end")
        outcome.finished_before = len(cuts[-1].finished) if cuts else 0
        count_sent(setting.logged(), cuts, outcome)
        check_output(output, marks, outcome)
    finally:
        setting.close()
    return outcome


def _seconds(rows: int) -> float:
    """Return about the seconds of a map without kills."""
    return rows * 0.004


def finished(path: Path) -> set[int]:
    """Return the numbers of the provider's replies that the store has for finished calls of rows."""
    store = open_store(path)
    try:
        return {reply for row in store.runs(RunFilter(map=_MAP)) for reply in replies_in(store, row.run_id)}
    finally:
        store.close()


def check_output(path: Path, marks: list[str], outcome: Trial) -> None:
    """Check that every row is in the output once, with its own answer."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    count = Counter(line["key"] for line in lines)
    if twice := sum(number > 1 for number in count.values()):
        outcome.faults.append(f"{twice} rows are in the output twice")
    if lost := len(marks) - len(count):
        outcome.faults.append(f"{lost} rows are not in the output")
    outcome.mixed_up = sum(marks[int(line["key"])] not in str(line["answer"]) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(machine())
    os.environ.setdefault("FUSION_WIRE", "direct")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        one = trial(given.rows, given.kills, random.Random(given.seed), Path(folder))
    print(
        f"{given.rows:,} rows, killed {one.kills} times: {one.sent} calls sent, {one.sent_again} of them again "
        f"({one.finished_again} finished, {one.too_often} too often), {one.mixed_up} mixed up: "
        f"{'right' if one.right else 'WRONG'} {'; '.join(one.faults)}"
    )
    print(f"{time.monotonic() - began:.0f} s; {machine()}")
    if not one.right:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
