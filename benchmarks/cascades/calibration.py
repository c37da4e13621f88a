"""Simulated calibrations: the rate at which a chosen threshold misses its target.

python -m benchmarks.cascades.calibration [--trials 1000]
"""

import argparse
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from benchmarks.cascades.recorded import DEEPSEEK, MINI, SETS, tasks
from benchmarks.perf.figures import machine
from fusion.core.errors import InputError
from fusion.stages.tiers.calibration import LEVELS, Scored, calibrated

THIRD = "gemini-1.5-flash"


class World(NamedTuple):
    """A source of examples, and the true error rate above a threshold."""

    draw: Callable[[random.Random], Scored]
    wrong: Callable[[float], float]
    levels: Sequence[float]


class Setting(NamedTuple):
    """A world, the target in it, and the number of examples."""

    name: str
    world: World
    target: float
    delta: float
    examples: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    print(machine())
    print(f"{'setting':44}{'target':>8}{'delta':>7}{'n':>6}{'broken':>9}{'none found':>12}{'escalated':>11}")
    for setting in settings():
        broken, none, escalated = measured(setting, trials)
        print(
            f"{setting.name:44}{setting.target:8.3f}{setting.delta:7.2f}{setting.examples:6}"
            f"{broken / trials:9.3f}{none / trials:12.3f}{escalated:11.3f}"
        )


def settings() -> list[Setting]:
    found = []
    for of in SETS:
        world = recorded(of)
        best = world.wrong(world.levels[0])
        for name, target in (("well within reach", best * 3), ("just out of reach", best * 0.999)):
            found += [Setting(f"agreement of 3 on {of}, {name}", world, target, 0.1, n) for n in (100, 300)]
    for delta in (0.05, 0.1, 0.2):
        well, half = stated(lambda c: 1 - c), stated(lambda c: 0.5 - c / 2)
        found += [Setting("stated confidence, as it is in truth", well, 0.1, delta, n) for n in (300, 1000)]
        found += [Setting("stated confidence, half as wrong in truth", half, 0.1, delta, n) for n in (300, 1000)]
    found.append(Setting("stated confidence that says nothing", stated(lambda c: 0.101), 0.1, 0.1, 300))
    return found


def recorded(of: str) -> World:
    """The share of three cheap models that agree on an item of a set; the set is the true distribution."""
    scored = []
    for task in tasks(of):
        said = [task.answers[model] for model in (MINI, DEEPSEEK, THIRD)]
        keys = [one.key for one in said]
        count, first = max((keys.count(key) if key is not None else 0, -at) for at, key in enumerate(keys))
        scored.append(Scored(max(count, 1) / 3, said[-first].right))
    return World(lambda draw: draw.choice(scored), lambda level: share_wrong(scored, level), (1.0, 2 / 3))


@cache
def evenly(wrong_at: Callable[[float], float], level: float) -> float:
    """Return the true error rate of all items with at least this confidence."""
    low = max(level, 0.5)
    steps = [low + (1 - low) * (at + 0.5) / 1000 for at in range(1000)]
    return sum(map(wrong_at, steps)) / len(steps)


def share_wrong(scored: Sequence[Scored], level: float) -> float:
    reached = [one.right for one in scored if one.confidence >= level - 1e-9]
    return reached.count(False) / len(reached) if reached else 0.0


def stated(wrong_at: Callable[[float], float]) -> World:
    """A model with confidence `c`, uniform from 0.5 to 1, and error rate `wrong_at(c)`."""

    def draw(by: random.Random) -> Scored:
        confidence = by.uniform(0.5, 1)
        return Scored(confidence, by.random() >= wrong_at(confidence))

    return World(draw, lambda level: evenly(wrong_at, level), LEVELS)


def measured(setting: Setting, trials: int) -> tuple[int, int, float]:
    """Return the numbers of missed targets and of trials without a threshold, and the mean share escalated."""
    by = random.Random(0)
    broken = none = 0
    escalated = 0.0
    for _ in range(trials):
        scored = [setting.world.draw(by) for _ in range(setting.examples)]
        try:
            found = calibrated(scored, target=setting.target, delta=setting.delta, levels=setting.world.levels)
        except InputError:
            none += 1
            escalated += 1
            continue
        broken += setting.world.wrong(found.threshold) > setting.target
        escalated += found.escalation_rate
    return broken, none, escalated / trials


if __name__ == "__main__":
    main()
