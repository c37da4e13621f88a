"""agree-or-escalate over the recorded sets, run by the engine, against the strong model alone; then per-set routes.

python -m benchmarks.cascades.agree
"""

import math
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from benchmarks.cascades.recorded import DEEPSEEK, EXTRACT, FOLDER, MINI, SETS, SONNET, Task, is_right, tasks
from benchmarks.perf.figures import machine
from fusion import Fusion, Generate, InputSpec, Pipeline
from fusion.core.types import Limits

MOST_TOKENS = 5000
TRIALS = 2000


class Outcome(NamedTuple):
    """The outcome of one item."""

    right: bool
    usd: float
    escalated: bool
    way: str | None


class Way(NamedTuple):
    """The models of a set: cheap ones, cheapest first, of which two must agree, and the strong one."""

    cheap: tuple[str, ...]
    strong: str


def main() -> None:
    print(machine())
    items = [task for of in SETS for task in tasks(of)]
    alone, _ = through(items, dict.fromkeys(SETS, single()), {"frontier": SONNET})
    plain = {of: agreeing(of) for of in SETS}
    roles = {"bulk": MINI, "second": DEEPSEEK, "frontier": SONNET}
    outcomes, seconds = through(items, plain, roles)
    table(f"agree-or-escalate, {len(items):,} items in {seconds:.1f} s", items, outcomes, alone)
    three = {of: agreeing(of, ("bulk", "second", "third")) for of in SETS}
    outcomes, _ = through(items, three, {**roles, "third": "gemini-1.5-flash"})
    table("two of three, the third asked only where the first two differ", items, outcomes, alone)
    for errors in (0, 1):
        per_set_routes(items, alone, errors)


def per_set_routes(items: Sequence[Task], alone: Sequence[Outcome], errors: float) -> None:
    """Choose models for each set on one half of its items, and measure them on the other half through one route."""
    places = {of: [at for at, task in enumerate(items) if task.of == of] for of in SETS}
    outcomes: dict[int, Outcome] = {}
    print()
    for half in (0, 1):
        ways = {of: chosen([items[at] for at in places[of][half::2]], errors) for of in SETS}
        for of, way in ways.items():
            print(f"  {of}, half {half + 1}: {' + '.join(way.cheap) or 'none'}, else {way.strong}")
        rest = sorted(at for of in SETS for at in places[of][1 - half :: 2])
        pipeline, roles = routed(ways)
        found, _ = through([items[at] for at in rest], dict.fromkeys(SETS, pipeline), roles)
        outcomes.update(zip(rest, found, strict=True))
    astray = sum(outcomes[at].way != task.of for at, task in enumerate(items))
    title = f"per-set routes as the other half chose, {errors:g} standard errors; {astray} took another set's way"
    table(title, items, [outcomes[at] for at in range(len(items))], alone)


# Pipelines.


def single() -> Pipeline:
    """Return a pipeline of one call to the strong model."""
    return Pipeline(
        name="single",
        inputs={"question": InputSpec()},
        stages={"answer": Generate(prompt="generate/pass-through", max_tokens=MOST_TOKENS)},
        output="answer",
    )


def agreeing(of: str, cheap: tuple[str, ...] = ("bulk", "second")) -> Pipeline:
    """Return the shipped pipeline with the set's comparison of answers, and at most this many cheap roles."""
    with Fusion(profile="local") as fusion:
        shipped = fusion.load("agree-or-escalate")
    cascade: Any = shipped.stages["answer"]
    accept = cascade.accept.model_copy(update={"extract": EXTRACT[of]})
    tier = cascade.tiers[0].model_copy(update={"roles": cheap})
    changed = cascade.model_copy(update={"accept": accept, "tiers": (tier, cascade.tiers[1])})
    return shipped.model_copy(update={"stages": {"answer": changed}, "budget": Limits()})


def routed(ways: dict[str, Way]) -> tuple[Pipeline, dict[str, str]]:
    """Return one route over the sets, by the text of the prompt."""
    models = {f"{of}_{at}": model for of, way in ways.items() for at, model in enumerate((*way.cheap, way.strong))}
    routes: dict[str, Any] = {}
    for of, way in ways.items():
        names = [f"{of}_{at}" for at in range(len(way.cheap) + 1)]
        routes[of] = {"kind": "generate", "role": names[-1], "prompt": "generate/pass-through"}
        if way.cheap:
            extract = EXTRACT[of].model_dump(exclude_defaults=True)
            routes[of] = {
                "kind": "cascade",
                "tiers": [{"roles": names[:-1]}, names[-1]],
                "accept": {"agree": 2, "extract": extract},
            }
    route = {
        "kind": "route",
        "routes": routes,
        "default": "gsm8k",
        "rules": [
            {"matches": r"\[PYTHON\]", "use": "cruxeval"},
            {"matches": r"\\[a-zA-Z\[\]()]|\$[A-Za-z(\\-]|\$\d+\$", "use": "math_l5"},
        ],
    }
    data = {
        "name": "per-set",
        "inputs": {"question": {}},
        "defaults": {"max_tokens": MOST_TOKENS},
        "stages": {"answer": route},
        "output": "answer",
    }
    return Pipeline.model_validate(data, by_alias=True, by_name=False), models


# Runs.


def through(
    items: Iterable[Task], pipelines: dict[str, Pipeline], models: dict[str, str]
) -> tuple[list[Outcome], float]:
    """Run every item through the engine. Returns the outcomes and the seconds."""
    roles = {role: f"replay:{FOLDER}#{model}" for role, model in models.items()}
    outcomes = []
    with Fusion(profile="local", roles=roles) as fusion:
        started = time.perf_counter()
        for task in items:
            result = fusion.complete(task.prompt, pipeline=pipelines[task.of])
            right = is_right(task.of, result.text, task.gold)
            way = result.stages["answer"].decision
            outcomes.append(Outcome(right, float(result.cost.usd), result.receipt.escalated > 0, way))
        return outcomes, time.perf_counter() - started


def chosen(of: Sequence[Task], errors: float) -> Way:
    """Return the cheapest way that beats the strong model alone on these items by `errors` standard errors."""
    names = sorted(of[0].answers, key=lambda name: sum(task.answers[name].usd for task in of))
    alone = [task.answers[SONNET].right for task in of]
    best: tuple[float, Way] | None = None
    for cheap in [(), *(some for most in (2, 3, 4) for some in combinations(names, most))]:
        for strong in names:
            way = Way(cheap, strong)
            right, usd = worked_out(of, way, best[0] if best else float("inf"))
            if right and holds([one - other for one, other in zip(right, alone, strict=True)], errors):
                best = usd, way
    assert best is not None
    return best[1]


def holds(points: Sequence[int], errors: float) -> bool:
    """Return True if the mean is this many standard errors above zero, or if every value is zero."""
    mean = statistics.fmean(points)
    return mean >= errors * statistics.stdev(points) / math.sqrt(len(points))


def worked_out(of: Sequence[Task], way: Way, most: float) -> tuple[list[bool], float]:
    """Return the right answers of a way and its cost, without the engine; no answers once the cost reaches `most`."""
    right, usd = [], 0.0
    for task in of:
        seen: dict[str, Any] = {}
        answer = None
        for model in way.cheap:
            said = task.answers[model]
            usd += said.usd
            if said.key is not None and said.key in seen:
                answer = seen[said.key]
                break
            seen.setdefault(str(said.key), said)
        if answer is None:
            answer = task.answers[way.strong]
            usd += answer.usd
        right.append(answer.right)
        if usd >= most:
            return [], usd
    return right, usd


# Figures.


def table(title: str, items: Sequence[Task], outcomes: Sequence[Outcome], alone: Sequence[Outcome]) -> None:
    """Print accuracy, cost and escalations of each set and of all, with those of the strong model alone."""
    heads = f"{'set':10}{'items':>6}{'right':>8}{'alone':>8}{'points':>8}{'95 %':>17}{'cost':>7}{'escalated':>11}"
    print(f"\n{title}\n{heads}")
    for of in (*SETS, "all"):
        at = [n for n, task in enumerate(items) if of in ("all", task.of)]
        ours, theirs = [outcomes[n] for n in at], [alone[n] for n in at]
        points = [100.0 * (one.right - other.right) for one, other in zip(ours, theirs, strict=True)]
        low, high = interval(points)
        ratio = sum(one.usd for one in ours) / sum(other.usd for other in theirs)
        escalated = sum(one.escalated for one in ours)
        lost = sum(point < 0 for point in points)
        print(
            f"{of:10}{len(at):6}{share(ours):8.2f}{share(theirs):8.2f}{sum(points) / len(at):+8.2f}"
            f"{f'{low:+.2f} to {high:+.2f}':>17}{ratio:7.3f}{escalated / len(at):11.3f}  lost {lost}, won "
            f"{sum(point > 0 for point in points)}"
        )


def share(outcomes: Sequence[Outcome]) -> float:
    return 100 * sum(one.right for one in outcomes) / len(outcomes)


def interval(points: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean, by percentiles of the paired bootstrap."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(points, k=len(points))) / len(points) for _ in range(TRIALS))
    return means[int(0.025 * TRIALS)], means[int(0.975 * TRIALS)]


if __name__ == "__main__":
    main()
