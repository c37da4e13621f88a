"""Maps on two nodes of which something dies in the middle: rows lost, calls repeated, caps passed, time.

    python -m benchmarks.distributed.kills --on workers|ray [--kill none node database driver] [--rows 2000]
        [--cap above below] [--seconds 1] [--slots 20] [--seed 0]

Each row makes three calls over HTTP of about a second each, into a PostgreSQL store that is thrown away. At a random
instant of the middle third, one of the two nodes gets SIGKILL with its children, or the database crashes and starts
again, or the driver gets SIGKILL and is started again by the same map id, as is one that ends because its store is
lost. Requests are counted at the provider.

A trial is right if every row is in the output once with its own answer, no call whose reply was in the journal is
requested again, the requests cost no more than the cap, and it ends within 30 s of the ideal. The ideal goes on at
the pace of before, with the nodes that are left, from the instant of the kill. By the slots alone, it is the seconds
of all calls on those that are left. With a cap below the cost, the map stops; it is then finished with a larger one.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.distributed.cluster import Cluster, cluster
from benchmarks.distributed.nodes import COUNT, Nodes, nodes
from benchmarks.distributed.scene import CALLS, USD_A_CALL, Checked, Scene, kill
from benchmarks.perf.figures import machine

_BAR: Final = 30.0
_LOST: Final = 3
_STOPPED: Final = 4
"""Exit codes of a driver that has lost its store, and of one whose map its budget stopped."""
KILLS: Final = ("none", "node", "database", "driver")


class Plan(NamedTuple):
    """A trial: the kind of its nodes, the process that is killed, and the size of the map."""

    on: str
    kill: str = "node"
    rows: int = 2000
    seconds: float = 1.0
    slots: int = 20
    cap: str | None = None
    seed: int = 0
    longest: float = 600.0

    @property
    def usd(self) -> Decimal | None:
        """Return the cap in dollars: three times the cost of the map, or half of it."""
        cost = self.rows * CALLS * USD_A_CALL
        return {None: None, "above": 3 * cost, "below": cost / 2}[self.cap]


@dataclass
class Trial:
    """The end of a trial."""

    plan: Plan
    at: float = 0.0
    began: float = 0.0
    seconds: float = 0.0
    ideal: float = 0.0
    by_slots: float = 0.0
    exits: list[int] = field(default_factory=list)
    capped_usd: Decimal | None = None
    checked: Checked | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not self.faults

    def line(self) -> str:
        """Return the figures in a line."""
        plan, checked = self.plan, self.checked
        assert checked is not None
        cap = "" if plan.usd is None else f"; ${self.capped_usd or checked.usd} asked under a cap of ${plan.usd:f}"
        return (
            f"{plan.on}, {plan.kill} killed at {self.at:.1f} s, seed {plan.seed}, {plan.rows:,} rows: "
            f"{checked.lost} lost, {checked.twice} twice, {checked.repeated} journaled calls repeated, "
            f"{checked.again} calls in flight sent again{cap}; {self.seconds:.1f} s, ideal {self.ideal:.1f}, "
            f"by slots {self.by_slots:.1f}, first call at {self.began:.1f}: "
            f"{'right' if self.right else 'WRONG'} {'; '.join(self.faults)}"
        )


class Stage:
    """A trial under way: a map, its nodes, its database, and its driver."""

    def __init__(self, plan: Plan, scene: Scene, database: Cluster, members: Nodes) -> None:
        self._plan = plan
        self._scene = scene
        self._database = database
        self._nodes = members
        self._began, self._clock = time.monotonic(), time.time()
        self._driver = self._start(plan.usd)
        whole = plan.rows * CALLS * plan.seconds / (COUNT * plan.slots)
        self.trial = Trial(plan, ideal=whole, by_slots=whole)

    def run(self) -> Trial:
        """Run the map with its kill, and finish it where its cap has stopped it."""
        if self._plan.kill != "none":
            self._wait_for_middle()
            self._kill()
        self.trial.exits.append(self._driver.wait(self._plan.longest))
        if self._plan.kill == "database" and self.trial.exits == [_LOST]:
            self._driver = self._start(self._plan.usd)
            self.trial.exits.append(self._driver.wait(self._plan.longest))
        self.trial.seconds = time.monotonic() - self._began
        if self._plan.cap == "below":
            self._finish()
        check(self.trial, self._scene, self._database.url())
        return self.trial

    def close(self) -> None:
        kill(self._driver)
        self._nodes.close()

    def _start(self, usd: Decimal | None) -> "subprocess.Popen[bytes]":
        return self._scene.map(self._database.url(), self._nodes.on, usd, self._nodes.options)

    def _wait_for_middle(self) -> None:
        """Wait until a random share of the calls is answered: of the middle third of those that the cap allows."""
        share = random.Random(self._plan.seed).uniform(1 / 3, 2 / 3) * (0.5 if self._plan.cap == "below" else 1)
        calls = max(1, int(share * self._plan.rows * CALLS))
        until = self._began + self._plan.longest
        while self._scene.answered < calls and self._driver.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        self.trial.at = time.monotonic() - self._began
        if not self._scene.answered:
            raise SystemExit("the map ended before its first call")

    def _kill(self) -> None:
        self._foresee(self._nodes.left if self._plan.kill == "node" else 1.0)
        match self._plan.kill:
            case "node":
                self._nodes.kill_one()
            case "database":
                self._database.stop("immediate")
                self._database.start()
            case "driver":
                kill(self._driver)
                self._driver = self._start(self._plan.usd)

    def _foresee(self, share: float) -> None:
        """Note the ideal ends of what is left, on this share of the slots."""
        trial, plan, done = self.trial, self._plan, self._scene.answered
        left = plan.rows * CALLS - done
        trial.began = self._scene.logged()[0]["at"] - self._clock
        trial.ideal = trial.at + left / (share * done / (trial.at - trial.began))
        trial.by_slots = trial.at + left * plan.seconds / (share * COUNT * plan.slots)

    def _finish(self) -> None:
        """Go on with a map that its cap has stopped, under a larger cap."""
        self.trial.capped_usd = len(self._scene.logged()) * USD_A_CALL
        self._driver = self._start(None)
        self.trial.exits.append(self._driver.wait(self._plan.longest))


def check(trial: Trial, scene: Scene, store: str) -> None:
    """Say what is wrong with the end of a trial."""
    plan, checked = trial.plan, Checked(scene, store)
    trial.checked = checked
    spent = checked.usd if trial.capped_usd is None else trial.capped_usd
    wrong = {
        f"exit codes {trial.exits}": [code for code in trial.exits if code != _LOST]
        != ([_STOPPED, 0] if plan.cap == "below" else [0]),
        f"{checked.lost} rows lost": checked.lost,
        f"{checked.twice} rows twice": checked.twice,
        f"{checked.mixed_up} answers of other rows": checked.mixed_up,
        f"{checked.repeated} journaled calls repeated": checked.repeated,
        f"${spent} spent under ${plan.usd}": plan.usd is not None and spent > plan.usd,
        f"later than {_BAR:.0f} s after the ideal": plan.cap != "below" and trial.seconds > trial.ideal + _BAR,
    }
    trial.faults = [fault for fault, found in wrong.items() if found]


def run(plan: Plan) -> Trial:
    """Run a trial in a folder and a database of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(cluster("-c", "max_connections=200"))
        scene = Scene(folder, plan.rows, plan.seconds)
        stack.callback(scene.close)
        members = nodes(plan.on, folder, scene.config, database.url(), plan.slots)
        stage = Stage(plan, scene, database, members)
        stack.callback(stage.close)
        stack.callback(tell, folder, stage.trial)
        return stage.run()


def tell(folder: Path, trial: Trial) -> None:
    """Print the ends of the logs of a trial that is not right."""
    if trial.checked is None or not trial.right:
        for log in sorted(folder.glob("*.log")):
            sys.stderr.write(f"--- {log.name}\n{log.read_text()[-1500:]}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", choices=("workers", "ray"), default="workers")
    parser.add_argument("--kill", choices=KILLS, nargs="+", default=["node"])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--slots", type=int, default=20)
    parser.add_argument("--cap", choices=("above", "below"))
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    right = True
    for seed in given.seed:
        for killed in given.kill:
            print(machine())
            trial = run(Plan(given.on, killed, given.rows, given.seconds, given.slots, given.cap, seed))
            right &= trial.right
            print(trial.line(), flush=True)
    print(machine())
    raise SystemExit(0 if right else 1)


if __name__ == "__main__":
    main()
