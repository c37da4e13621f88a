"""agree-or-escalate over the recorded sets, through the engine, against the strong model alone; then per-set routes.

python -m benchmarks.cascades.agree
"""

import random
import time
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from benchmarks.cascades.recorded import DEEPSEEK, EXTRACT, FOLDER, MINI, SETS, SONNET, Task, is_right, tasks
from benchmarks.perf.figures import machine
from fusion import Fusion, Generate, InputSpec, Pipeline
from fusion.types import Limits

MOST_TOKENS = 5000
TRIALS = 2000


class Outcome(NamedTuple):
    """What became of one item."""

    right: bool
    usd: float
    escalated: bool
    way: str | None


class Way(NamedTuple):
    """A set's way: cheap models of which two must agree (one or none: nobody has to), and the strong one."""

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
    per_set_routes(items, alone)


def per_set_routes(items: Sequence[Task], alone: Sequence[Outcome]) -> None:
    """A way for each set is chosen on every other item, and measured on the rest, through one route."""
    ways = {of: chosen(tasks(of)[::2]) for of in SETS}
    for of, way in ways.items():
        print(f"  {of}: {' + '.join(way.cheap) or 'nobody'}, else {way.strong}")
    rest = [at for of in SETS for at in [at for at, task in enumerate(items) if task.of == of][1::2]]
    held = [items[at] for at in rest]
    pipeline, roles = routed(ways)
    outcomes, _ = through(held, dict.fromkeys(SETS, pipeline), roles)
    astray = sum(outcome.way != task.of for outcome, task in zip(outcomes, held, strict=True))
    table(
        f"per-set routes, chosen on the other half; {astray} of {len(held)} took another set's way",
        held,
        outcomes,
        [alone[at] for at in rest],
    )
    plain, _ = through(
        held, {of: agreeing(of) for of in SETS}, {"bulk": MINI, "second": DEEPSEEK, "frontier": SONNET}
    )
    table("agree-or-escalate on the same half", held, plain, [alone[at] for at in rest])


# Pipelines.


def single() -> Pipeline:
    """One call to the strong model."""
    return Pipeline(
        name="single",
        inputs={"question": InputSpec()},
        stages={"answer": Generate(prompt="generate/pass-through", max_tokens=MOST_TOKENS)},
        output="answer",
    )


def agreeing(of: str, cheap: tuple[str, ...] = ("bulk", "second")) -> Pipeline:
    """The shipped pipeline, comparing answers as the set wants it; at most so many of the cheap roles are asked."""
    with Fusion(profile="local") as fusion:
        shipped = fusion.load("agree-or-escalate")
    cascade: Any = shipped.stages["answer"]
    accept = cascade.accept.model_copy(update={"extract": EXTRACT[of]})
    tier = cascade.tiers[0].model_copy(update={"roles": cheap})
    changed = cascade.model_copy(update={"accept": accept, "tiers": (tier, cascade.tiers[1])})
    return shipped.model_copy(update={"stages": {"answer": changed}, "budget": Limits()})


def routed(ways: dict[str, Way]) -> tuple[Pipeline, dict[str, str]]:
    """One route over the sets: which set a prompt is of shows in its text."""
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
    """Every item through the engine, and the seconds that it took."""
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


def chosen(of: Sequence[Task]) -> Way:
    """The cheapest way that is right at least as often as the strong model alone, on these items."""
    names = list(of[0].answers)
    least = sum(task.answers[SONNET].right for task in of)
    best: tuple[float, Way] | None = None
    for cheap in [(), *combinations(names, 2), *combinations(names, 3)]:
        for strong in names:
            right, usd = worked_out(of, Way(cheap, strong), best[0] if best else float("inf"))
            if right >= least and (best is None or usd < best[0]):
                best = usd, Way(cheap, strong)
    assert best is not None
    return best[1]


def worked_out(of: Sequence[Task], way: Way, most: float) -> tuple[int, float]:
    """How often a way is right and what it costs, without the engine; given up once it costs `most`."""
    right, usd = 0, 0.0
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
        right += answer.right
        if usd >= most:
            return 0, usd
    return right, usd


# Figures.


def table(title: str, items: Sequence[Task], outcomes: Sequence[Outcome], alone: Sequence[Outcome]) -> None:
    """Accuracy, cost and escalations of each set and of all, beside those of the strong model alone."""
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
    """The 95 % interval of the mean, by the percentiles of paired bootstrap samples."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(points, k=len(points))) / len(points) for _ in range(TRIALS))
    return means[int(0.025 * TRIALS)], means[int(0.975 * TRIALS)]


if __name__ == "__main__":
    main()
