"""Drill: the stages of a run that would die without some models, and the price of those that go on, on paper."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from random import Random
from statistics import fmean
from typing import Final, Literal, NamedTuple

from fusion.core.config.policy import check_pattern
from fusion.core.errors import UsageError
from fusion.core.result import ReceiptLine, StageResult
from fusion.core.types import Money, Value
from fusion.engine.run_spec import RunSpec
from fusion.quote.simulate import OUT_OF_REACH, Simulated, in_virtual_time, simulate
from fusion.stages.simulation import Chance, evenly

Fate = Literal["unaffected", "goes on", "loses parts", "dies", "not reached"]

_RUNS: Final = 24
_CENTS: Final = Decimal("0.000001")


class DrilledStage(Value):
    """A stage without the models that are taken away.

    `fate` is "unaffected" (it calls none of them), "goes on" (with other models, or without a member that it can
    spare), "loses parts", "dies", or "not reached" (it depends on a stage that dies). `models` are called before and
    `instead` afterwards; `usd` and `usd_after` are the likely dollars, None for models of unknown price.
    """

    name: str
    kind: str
    fate: Fate
    models: tuple[str, ...]
    instead: tuple[str, ...]
    usd: Money | None
    usd_after: Money | None


class Scenario(Value):
    """A run without some models. `lost` are those of the pipeline that match the patterns in `without`."""

    without: tuple[str, ...]
    lost: tuple[str, ...]
    stages: tuple[DrilledStage, ...]

    @property
    def dead(self) -> tuple[str, ...]:
        """The stages that do not go on, in order."""
        return tuple(stage.name for stage in self.stages if stage.fate not in ("unaffected", "goes on"))

    @property
    def usd(self) -> Decimal | None:
        """The likely dollars of the whole run; None if a price is unknown."""
        return _total([stage.usd for stage in self.stages])

    @property
    def usd_after(self) -> Decimal | None:
        """The likely dollars of the stages that go on; None if a price is unknown."""
        return _total([stage.usd_after for stage in self.stages])


class Drill(Value):
    """A pipeline under one or more scenarios. `notes` name keys that are not set and models left out."""

    pipeline: str
    profile: str
    scenarios: tuple[Scenario, ...]
    notes: tuple[str, ...] = ()

    @property
    def survives(self) -> bool:
        """True if every stage goes on in every scenario."""
        return not any(scenario.dead for scenario in self.scenarios)


def drilled(spec: RunSpec, without: Sequence[str] = ()) -> Drill:
    """Return the drill of a run without the models that match these patterns; by default without each provider.

    Raises UsageError for an invalid pattern. It computes for a moment and makes no call.
    """
    for pattern in without:
        try:
            check_pattern(pattern)
        except ValueError as error:
            raise UsageError(str(error)) from error
    providers = dict.fromkeys(info.provider for info in spec.roles.models.values())
    cases = [tuple(without)] if without else [(f"provider:{provider}",) for provider in providers]
    before = _simulated(spec, ())
    notes = [*spec.notes, *_strangers(spec, without)]
    return Drill(
        pipeline=spec.pipeline.name,
        profile=spec.profile,
        scenarios=tuple(_Case(spec, case, before).scenario() for case in cases),
        notes=tuple(notes),
    )


def _strangers(spec: RunSpec, without: Sequence[str]) -> Iterator[str]:
    """Yield a note for each pattern that names no model of the pipeline."""
    for pattern in without:
        if not spec.roles.named([pattern]):
            names = ", ".join(spec.roles.models) or "none"
            yield f"{pattern!r} names no model of this pipeline; it has: {names}"


def _simulated(spec: RunSpec, out: Collection[str]) -> list[Simulated]:
    """Simulate the run with equal chances for equal specs."""
    lies = evenly(_RUNS, Random(0))  # noqa: S311 - a drill is the same each time

    async def runs() -> list[Simulated]:
        chances = (Chance(str(number), lie=lie) for number, lie in enumerate(lies, start=1))
        return [await simulate(spec, chance, out=out) for chance in chances]

    found: list[Simulated] = in_virtual_time(runs)
    return found


class _Lot(NamedTuple):
    """The share of simulated runs in which a stage fails, or in which it loses parts, for want of a model."""

    failed: float
    lossy: float


class _Case:
    """One scenario, from the simulated runs before it and in it."""

    def __init__(self, spec: RunSpec, without: tuple[str, ...], before: Sequence[Simulated]) -> None:
        self._spec = spec
        self._without = without
        self._lost = spec.roles.named(without)
        self._before = before
        self._after = before
        if self._lost:
            self._after = _simulated(replace(spec, roles=spec.roles.surviving(self._lost)), self._lost)

    def scenario(self) -> Scenario:
        stages = list[DrilledStage]()
        fatal: set[str] = set()
        for name in self._spec.loaded.dataflow.order:
            stages.append(self._drilled(name, starved=bool(self._sources(name) & fatal)))
            if stages[-1].fate in ("dies", "not reached") and self._ends_run(name):
                fatal.add(name)
        return Scenario(without=self._without, lost=self._lost, stages=tuple(stages))

    def _drilled(self, name: str, *, starved: bool) -> DrilledStage:
        before, after = self._models(name, self._before), self._models(name, self._after)
        fate = self._fate(name, before, starved=starved)
        over = fate in ("dies", "not reached")
        return DrilledStage(
            name=name,
            kind=self._spec.pipeline.stages[name].kind,
            fate=fate,
            models=before,
            instead=() if over else after,
            usd=self._usd(name, self._before),
            usd_after=Decimal(0) if over else self._usd(name, self._after),
        )

    def _fate(self, name: str, before: Sequence[str], *, starved: bool) -> Fate:
        chains = self._chains(name)
        if chains and all(set(chain) <= {*self._lost} for chain in chains):
            return "dies"
        if starved:
            return "not reached"
        lot = self._lot(name)
        if lot.failed >= 1:
            return "dies"
        if lot.failed > 0 or lot.lossy > 0:
            return "loses parts"
        first = {chain[0] for chain in chains} | {*before}
        return "goes on" if first.intersection(self._lost) else "unaffected"

    def _chains(self, name: str) -> list[list[str]]:
        """Return the models of each role that a stage may call, itself or in the pipeline that it runs."""
        roles, nested = self._spec.roles, self._spec.roles.nested.get(name)
        own = [roles[role] for _, role in self._spec.pipeline.stages[name].roles()]
        return [[info.id for info in one.models] for one in [*own, *({} if nested is None else nested.all).values()]]

    def _lot(self, name: str) -> _Lot:
        ends = [run.result.stages.get(name) for run in self._after]
        return _Lot(fmean(map(_is_cut_off, ends)), fmean(_has_losses(run, name) for run in self._after))

    def _sources(self, name: str) -> set[str]:
        return {edge.source for edge in self._spec.loaded.dataflow.edges if edge.target == name}

    def _ends_run(self, name: str) -> bool:
        stage = self._spec.pipeline.stages[name]
        return stage.on_error != "skip" or stage.default is None

    def _models(self, name: str, runs: Sequence[Simulated]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line.model for run in runs for line in _lines(run, name) if line.calls))

    def _usd(self, name: str, runs: Sequence[Simulated]) -> Decimal | None:
        lines = [line for run in runs for line in _lines(run, name) if line.calls]
        if any(line.price_source == "unknown" for line in lines):
            return None
        return (sum((line.cost.usd for line in lines), Decimal(0)) / len(runs)).quantize(_CENTS)


def _is_within(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}/")


def _lines(run: Simulated, name: str) -> Iterator[ReceiptLine]:
    return (line for line in run.result.receipt.lines if _is_within(line.stage, name))


def _is_cut_off(end: StageResult | None) -> bool:
    return end is not None and end.failure is not None and OUT_OF_REACH in end.failure.message


def _has_losses(run: Simulated, name: str) -> bool:
    """Return True if a stage lost parts for want of a model, beyond what its `min_ok` allows."""
    return any(OUT_OF_REACH in part.failure.message for part in run.result.lost if _is_within(part.stage, name))


def _total(amounts: Sequence[Decimal | None]) -> Decimal | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if len(known) == len(amounts) else None
