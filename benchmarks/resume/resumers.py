"""Two processes that resume one run at the same instant: one runs it, the other reports that it is running.

python -m benchmarks.resume.resumers [--times 20]
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.perf.figures import machine
from fusion import Fusion, Request, ScriptedModel
from fusion.pipeline.spec import Pipeline
from fusion.store.open import open_store

ITEMS = 20
PIPELINE = """
name: resumed
inputs: {rows: {default: []}}
stages:
  work: {kind: map, over: inputs.rows, role: any, concurrency: 2, prompt: "Say {{ item.value }}"}
output: work
"""
RESUMER = "from benchmarks.resume.resumers import resume; import sys; resume(sys.argv[1], sys.argv[2])"


@dataclass(frozen=True)
class Outcome:
    """The exit codes of both processes, and the final number of calls of the run."""

    codes: tuple[int, int]
    said: str
    calls: int

    @property
    def right(self) -> bool:
        return sorted(self.codes) == [0, 2] and "being run" in self.said and self.calls == ITEMS


def interrupted(store: Path) -> str:
    """Interrupt a run halfway. Returns its id."""
    pipeline = Pipeline.from_yaml(PIPELINE)
    asked = 0

    def script(request: Request) -> str:
        nonlocal asked
        asked += 1
        if asked == ITEMS // 2:
            handle.stop()
        return "said"

    with Fusion(model=ScriptedModel(script, name="any"), store=store) as fusion:
        handle = fusion.start(pipeline=pipeline, inputs={"rows": list(range(ITEMS))})
        handle.wait()
    return handle.run_id


def resume(store: str, run_id: str) -> None:
    """Resume the run after a line on standard input: exit 0 if it ran, 2 if it could not."""
    from fusion.core.errors import RunBusyError

    with Fusion(model=ScriptedModel("said", name="any", delay=0.1), store=store) as fusion:
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            fusion.resume(run_id)
        except RunBusyError as error:
            print(error, flush=True)
            sys.exit(2)


def once(folder: Path) -> Outcome:
    """Start two resumers at once on one interrupted run."""
    store = folder / "runs.db"
    run_id = interrupted(store)
    command = [sys.executable, "-c", RESUMER, str(store), run_id]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for one in both:
        assert one.stdout is not None
        one.stdout.readline()
    for one in both:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    said = "".join(one.communicate()[0] for one in both)
    opened = open_store(store)
    calls = sum(1 for _ in opened.calls(run_id))
    opened.close()
    return Outcome((both[0].returncode, both[1].returncode), said, calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    given = parser.parse_args()
    outcomes = []
    for _ in range(given.times):
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(once(Path(folder)))
    wrong = [outcome for outcome in outcomes if not outcome.right]
    print(f"{len(outcomes) - len(wrong)} of {len(outcomes)} times exactly one ran it, the other said so; {machine()}")
    for outcome in wrong:
        print(outcome)


if __name__ == "__main__":
    main()
