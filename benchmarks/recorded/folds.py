"""Ten folds: nine choose models for each route, which answer the tenth through the engine."""

from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.recorded.ways import Answers, Way, chosen
from fusion import Fusion, Pipeline
from fusion.bench.report.results import ArmRecord, Outcome, Results, Spending
from fusion.bench.scorers.base import Answer
from fusion.bench.scorers.registry import scorer
from fusion.bench.suite import Suite
from fusion.bench.tasks import Task, folds
from fusion.core.yaml import read_yaml

FOLDER = Path(__file__).parents[1] / "suites" / "recorded"
DATA = Path(__file__).parents[1] / "data" / "recorded"
ROUTES = ("gsm8k", "cruxeval", "math_l5")
K = 10


class Rule(NamedTuple):
    """The rule to choose models on the nine folds.

    `cap` is their largest cost relative to the best single model. Each of the draws takes a `share` of the items and
    makes a choice; the most frequent choice wins. One draw of all items is a plain choice.
    """

    cap: float
    draws: int = 1
    share: float = 1.0


RULE = Rule(cap=0.45, draws=200, share=0.5)
"""The rule in use: its cap is the bar, its draws are those of stability selection (Meinshausen and Bühlmann 2010)."""


class Chosen(NamedTuple):
    """The result of a seed: its outcomes, and how often each choice was made on each route."""

    outcomes: list[Outcome]
    ways: dict[str, dict[str, int]]


class Folds:
    """The recorded suite's single models, cut into folds."""

    def __init__(self, results: Results, suite: Suite, gold: Mapping[str, Any]) -> None:
        self._results = results
        self._gold = gold
        self._sets = {item.id: item.task_set for item in results.items}
        self._prompts = {item.id: item.prompt for item in results.items}
        self._scorers = {name: scorer(suite.scoring(name).by, path=suite.scoring(name).path) for name in suite.tasks}
        self._fusion = Fusion(profile="local")
        self._router = self._routed({route: Way((), "gpt-4o-2024-08-06") for route in ROUTES})
        self._routes = {item.id: self._route_of(item.id) for item in results.items}
        self._answers = {
            route: Answers(results, [item for item, way in self._routes.items() if way == route], route)
            for route in ROUTES
        }
        self._done: dict[tuple[str, Way], Outcome] = {}
        self._tables = cache(lambda route, models: self._answers[route].table(models))

    def close(self) -> None:
        self._fusion.close()
        for one in self._scorers.values():
            one.close()

    @property
    def astray(self) -> int:
        """The number of items that look like those of another set."""
        return sum(self._sets[item] != route for item, route in self._routes.items())

    def seed(self, seed: int, rule: Rule = RULE) -> Chosen:
        """Answer every item by the choice of the other nine folds."""
        fold = folds([Task(id=item, prompt="-") for item in self._sets], K, seed=seed)
        outcomes: dict[str, Outcome] = {}
        counts: dict[str, dict[str, int]] = {route: {} for route in ROUTES}
        for held in range(K):
            ways = self._chosen(fold, held, seed, rule)
            for route, way in ways.items():
                words = f"{' + '.join(way.cheap) or 'nobody'}, else {way.strong}"
                counts[route][words] = counts[route].get(words, 0) + 1
            for item in (item for item, its in fold.items() if its == held):
                outcomes[item] = self._answered(item, ways)
        name = arm_name(seed)
        return Chosen([outcomes[item].model_copy(update={"arm": name, "seed": seed}) for item in self._sets], counts)

    def _chosen(self, fold: Mapping[str, int], held: int, seed: int, rule: Rule) -> dict[str, Way]:
        """Return for each route the choice of most draws from the nine folds."""
        among = {
            route: np.array([fold[item] != held for item, way in self._routes.items() if way == route])
            for route in ROUTES
        }
        tables = {
            route: self._tables(route, tuple(self._answers[route].undominated(among[route]))) for route in ROUTES
        }
        draws = _draws(among, rule, seed)
        return chosen(tables, draws, [rule.cap * usd for usd in self._best_single(draws)])

    def _best_single(self, draws: Mapping[str, np.ndarray]) -> list[float]:
        """Return the cost of the best single model of each draw; among equals the cheapest."""
        right = sum(draws[route] @ self._answers[route].scores for route in ROUTES)
        costs = sum(draws[route] @ self._answers[route].costs for route in ROUTES)
        return [float(usd[np.lexsort((usd, -its))[0]]) for its, usd in zip(right, costs, strict=True)]

    def _answered(self, item: str, ways: Mapping[str, Way]) -> Outcome:
        way = ways[self._routes[item]]
        if (item, way) not in self._done:
            self._done[item, way] = self._through(item, self._routed(ways))
        return self._done[item, way]

    def _through(self, item: str, pipeline: Pipeline) -> Outcome:
        """Return the engine's answer to an item, scored."""
        result = self._fusion.complete(self._prompts[item], pipeline=pipeline)
        score = self._scorers[self._sets[item]].score(Answer(text=result.text, data=result.data), self._gold[item])
        spent = tuple(
            Spending(model=line.model, calls=line.calls, usage=line.usage, cost=line.cost.usd)
            for line in result.receipt.lines
        )
        return Outcome(
            arm="-",
            item=item,
            score=score.value,
            answer=score.answer,
            text=result.text,
            cost=sum((one.cost or Decimal(0) for one in spent), Decimal(0)),
            usage=result.usage,
            calls=result.receipt.calls,
            escalated=result.receipt.escalated > 0,
            spent=spent,
        )

    def _route_of(self, item: str) -> str:
        """Return the engine's route for an item."""
        result = self._fusion.complete(self._prompts[item], pipeline=self._router)
        return str(result.stages["answer"].decision)

    @staticmethod
    def _routed(ways: Mapping[str, Way]) -> Pipeline:
        return _pipeline(tuple(ways.items()))


def _draws(among: Mapping[str, np.ndarray], rule: Rule, seed: int) -> dict[str, np.ndarray]:
    """Return the items of each draw as a matrix, draw by item: a share of these items, each at most once."""
    everywhere = np.concatenate(list(among.values()))
    places = np.flatnonzero(everywhere)
    drawer = np.random.default_rng(seed)
    taken = np.zeros((rule.draws, len(everywhere)))
    for row in taken:
        row[drawer.choice(places, int(len(places) * rule.share), replace=False)] = 1
    ends = np.cumsum([len(one) for one in among.values()])[:-1]
    return dict(zip(among, np.split(taken, ends, axis=1), strict=True))


@cache
def _pipeline(ways: tuple[tuple[str, Way], ...]) -> Pipeline:
    """Return the agree-or-escalate pipeline with models for each route."""
    text = (FOLDER / "agree-or-escalate.yaml").read_text(encoding="utf-8")
    data, _, _ = read_yaml(text, file="agree-or-escalate.yaml")
    roles: dict[str, str] = {}
    for route, way in ways:
        names = [f"{route}_{at}" for at in range(len(way.cheap) + 1)]
        roles |= {name: f"replay:{DATA}#{model}" for name, model in zip(names, (*way.cheap, way.strong), strict=True)}
        stage = data["stages"]["answer"]["routes"][route]
        if way.cheap:
            stage["tiers"] = [{"roles": names[:-1]}, names[-1]]
        else:
            alone = {"kind": "generate", "role": names[-1], "prompt": "generate/pass-through"}
            data["stages"]["answer"]["routes"][route] = alone
    return Pipeline.from_data({**data, "name": "per-set-routes", "roles": roles})


def arm_name(seed: int) -> str:
    return f"per-set routes, out of fold, seed {seed}"


def arm_record(chosen_: Chosen, seed: int) -> ArmRecord:
    models = dict.fromkeys(one.model for outcome in chosen_.outcomes for one in outcome.spent)
    return ArmRecord(name=arm_name(seed), kind="pipeline", models=tuple(models), price_source="prices.json")
