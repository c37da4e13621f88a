"""Finals: the finalists of a search, measured against the best single model, and written as files."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from fusion.bench.arms.base import Contestant, short_name
from fusion.bench.arms.pipeline import single_model
from fusion.bench.checkpoint import CANDIDATES
from fusion.bench.report.frontier import known_points, pareto
from fusion.bench.report.statistics import bootstrap_difference, verdict
from fusion.bench.suite import Arm, Suite
from fusion.bench.tuner.candidates import Candidate
from fusion.bench.tuner.judging import Found
from fusion.bench.tuner.racing import Race
from fusion.bench.tuner.tuned import Finalist, Tuned
from fusion.core.errors import BudgetError

FRONTIER: Final = "frontier"
OUTSIDERS: Final = ("python", "outputs")
"""Kinds of arms that cannot be written as a pipeline."""


class Finals:
    """A finished race with the ways that were found, and its results. `models` holds the id of each single model."""

    def __init__(
        self,
        suite: Suite,
        race: Race,
        stopped: str,
        made: Mapping[str, Candidate],
        folder: Path,
        found: Sequence[Found],
    ) -> None:
        self.models = {one.record.name: one.record.models[0] for one in race.singles}
        self._suite = suite
        self._race = race
        self._stopped = stopped
        self._made = dict(made)
        self._folder = folder
        self._scores = race.scores()
        self._found = {self._name(one): one for one in found}
        if not self._scores or not next(iter(self._scores.values())).scores:
            raise BudgetError(f"the search was stopped before any item had all its answers: {stopped}")

    def arm(self, one: Finalist) -> Arm:
        """Return a finalist of the frontier as an arm of a suite."""
        given = self._made[one.name].arm if one.name in self._made else None
        if given is not None and one.kind in OUTSIDERS:
            return given
        chosen = str(Path(one.file or "").resolve())
        return Arm(pipeline=chosen, profile=None if given is None else given.profile)

    def tuned(self, spent: Decimal, left_out: Sequence[str]) -> Tuned:
        best = self._best_single()
        finalists = [self._finalist(one, best) for one in self._race.left]
        finalists += [self._judged(name, one) for name, one in self._found.items() if self._is_new(one)]
        front = [one.name for one in pareto(known_points((one.name, one.cost, one.accuracy) for one in finalists))]
        costs = {one.name: one.cost or 0 for one in finalists}
        named = sorted({*front, *(name for name in self._found if name in costs)}, key=lambda name: costs[name])
        files = dict(self._write(named, finalists))
        finalists = [
            one.model_copy(update={"on_frontier": one.name in files, "file": files.get(one.name)})
            for one in finalists
        ]
        finalists.sort(key=lambda one: (one.cost is None, one.cost or 0, -one.accuracy, one.name))
        # The frontier holds one of several equals, and the named finalist is on it.
        fit = [one for one in finalists if one.on_frontier and self._is_fit(one, best)]
        return Tuned(
            suite=self._suite.name,
            items=len(self._scores[best].scores),
            margin=self._suite.margin,
            best_single=best,
            named=fit[0].name if fit else best,
            spent=spent,
            shares=tuple(self._race.shares),
            finalists=tuple(finalists),
            dropped=tuple(self._race.dropped.values()),
            searched=tuple(one.searched(name) for name, one in self._found.items()),
            left_out=tuple(left_out),
            stopped=self._stopped,
        )

    def _name(self, one: Found) -> str:
        """Return the finalist of a search: a model alone, or a new candidate, which is written."""
        if one.single is not None:
            self._race.dropped.pop(one.single, None)
            return one.single
        made = one.open.write(one.data())
        self._made[made.name] = made
        return made.name

    @staticmethod
    def _is_new(one: Found) -> bool:
        return one.single is None

    def _is_fit(self, one: Finalist, best: str) -> bool:
        """True if a finalist is as good as the best single model: by its search, else by the suite's margin."""
        if one.name in self._found:
            return self._found[one.name].is_fit
        if self._found and one.kind == "model":
            return one.name == best
        return one.verdict in ("better", "not worse")

    def _judged(self, name: str, one: Found) -> Finalist:
        """Return the finalist of a search, with its cross-validated figures."""
        own, other = one.scores(), one.reference()
        options: Any = {"clusters": own.clusters, "resamples": self._suite.resamples, "seed": self._suite.seeds[0]}
        difference = bootstrap_difference(own.scores, other.scores, **options)
        moved = {part: getattr(difference, part) - one.behind for part in ("estimate", "low", "high")}
        difference = difference.model_copy(update=moved)
        ways = {route: str(way) for route, way in one.searched(name).ways.items()}
        models = dict.fromkeys(model for way in one.chosen.ways.values() for model in way.models)
        return Finalist(
            name=name,
            kind="pipeline",
            chosen={**self._choices(name), **ways},
            models=tuple(self.models.get(model, model) for model in models),
            accuracy=own.accuracy,
            cost=own.cost,
            difference=difference,
            verdict=verdict(difference, self._suite.margin),
        )

    def _choices(self, name: str) -> dict[str, Any]:
        chosen = self._made[name].choices if name in self._made else ()
        return {".".join(map(str, pick.open.place)): pick.open.values[pick.number] for pick in chosen}

    def _best_single(self) -> str:
        singles = [one.record.name for one in self._race.left if one.record.kind == "model"]
        return min(singles, key=lambda name: (-self._scores[name].accuracy, self._scores[name].cost or 0, name))

    def _finalist(self, one: Contestant, best: str) -> Finalist:
        name = one.record.name
        own, other = self._scores[name], self._scores[best]
        options: Any = {"clusters": own.clusters, "resamples": self._suite.resamples, "seed": self._suite.seeds[0]}
        difference = bootstrap_difference(own.scores, other.scores, **options)
        return Finalist(
            name=name,
            kind=one.record.kind,
            chosen=self._choices(name),
            models=one.record.models,
            accuracy=own.accuracy,
            cost=own.cost,
            difference=difference,
            verdict="not worse" if name == best else verdict(difference, self._suite.margin),
        )

    def _write(self, names: Sequence[str], finalists: Sequence[Finalist]) -> Iterator[tuple[str, str | None]]:
        """Write the frontier as files, numbered from the cheapest, beside their templates.

        Yields names and files, None for an arm that is not a pipeline.
        """
        folder = self._folder / FRONTIER
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.yaml"):
            old.unlink()
        by_name = {one.name: one for one in finalists}
        for number, name in enumerate(names, start=1):
            one, path = by_name[name], None
            if one.kind not in OUTSIDERS:
                path = folder / f"{number:02}-{short_name(name).replace('/', '-')}.yaml"
                path.write_text(self._head(one) + self._text(one), encoding="utf-8")
            yield name, None if path is None else str(path)
        source = self._folder / CANDIDATES
        for templates in [path for path in source.iterdir() if path.is_dir()] if source.is_dir() else []:
            shutil.copytree(templates, folder / templates.name, dirs_exist_ok=True)

    def _text(self, one: Finalist) -> str:
        made = self._made.get(one.name)
        if made is not None and made.arm.pipeline is not None:
            return Path(made.arm.pipeline).read_text(encoding="utf-8")
        return single_model(short_name(one.name), one.models[0], (), self._suite.max_tokens).to_yaml()

    def _head(self, one: Finalist) -> str:
        """Return the measurements of a finalist as YAML comments."""
        found = self._found.get(one.name) if one.name not in self._scores else None
        items = len(self._scores[self._best_single()].scores if found is None else found.scores().scores)
        how = "" if found is None else ", cross-validated"
        cost = "unknown" if one.cost is None else f"${one.cost:.6f}"
        low, high = 100 * one.difference.low, 100 * one.difference.high
        lines = [
            f"On {items:,} dev items{how}: {100 * one.accuracy:.1f}% right, {cost} an item;",
            f"{100 * one.difference.estimate:+.2f} points to the best single model, 95% {low:+.2f} to {high:+.2f}.",
            *(f"{place}: {value}" for place, value in one.chosen.items()),
        ]
        return "".join(f"# {' '.join(line.split())}\n" for line in lines)
