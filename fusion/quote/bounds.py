"""Bounds: the worst case of a run, with every attempt of every call."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from fusion.core.types import Limits
from fusion.engine.budgets.holdback import Bound, least, most_of, sum_of
from fusion.engine.run_spec import RunSpec
from fusion.models.base import ModelInfo
from fusion.models.batches.base import BATCHES
from fusion.models.wrappers.retry import ATTEMPTS
from fusion.pipeline.dataflow import Wiring
from fusion.quote.simulate import Asking, Simulated
from fusion.stages.base import Stage


def bounds(spec: RunSpec, worst: Sequence[Simulated]) -> dict[str, Bound]:
    """Return the bound of each stage; a nested pipeline counts in its stage.

    `worst` are simulated worst cases: the size of their prompts bounds the input of a call. Behind a stage that
    failed in one, and where a model reads what tools give, the bound is the model's context.
    """
    return _Level(spec, worst).bounds()


def within(bounds: Iterable[Bound], limits: Limits, models: Iterable[ModelInfo]) -> Bound:
    """Return the bound of a run: the sum of its stages, under its limits; a limit of tokens limits dollars too."""
    whole = sum_of(bounds).under(limits)
    dearest = max((rate for model in models for rate in _rates(model)), default=None)
    if limits.tokens is None or dearest is None:
        return whole
    return whole._replace(usd=least(whole.usd, dearest * limits.tokens))


@dataclass(frozen=True)
class _Place:
    """A pipeline of the run. `prefix` precedes its stages' paths; `known` is true if no model writes its inputs."""

    spec: RunSpec
    prefix: str = ""
    known: bool = True

    @property
    def wirings(self) -> Mapping[str, Wiring]:
        return self.spec.loaded.dataflow.wirings


class _Level:
    """Computes the bounds of a pipeline's stages from simulated worst cases."""

    def __init__(self, spec: RunSpec, worst: Sequence[Simulated]) -> None:
        self._whole = _Place(spec)
        self._asking: dict[str, Asking] = {}
        self._items: dict[str, int] = {}
        self._failed: set[str] = set()
        for one in worst:
            self._take(one)

    def bounds(self) -> dict[str, Bound]:
        return self._of(self._whole)

    def _take(self, one: Simulated) -> None:
        path_of = self._whole.spec.loaded.path_of
        for place, asking in one.asking.items():
            self._asking.setdefault(path_of(place), Asking()).add(asking)
        for place, items in one.items.items():
            path = path_of(place)
            self._items[path] = max(items, self._items.get(path, 0))
        self._failed |= {path_of(part.stage) for part in one.result.failed}

    def _of(self, place: _Place) -> dict[str, Bound]:
        """Return the bounds of a pipeline's stages by name."""
        found: dict[str, Bound] = {}
        counts: dict[str, int | None] = {}
        shaky: set[str] = set()
        for name in place.spec.loaded.dataflow.order:
            stage = place.spec.pipeline.stages[name]
            wiring = place.wirings[name]
            if {*wiring.sources, *wiring.when} & (
                shaky | {path.partition("/")[0] for path in self._failed_in(place)}
            ):
                shaky.add(name)
            items = self._count(place, name, counts)
            counts[name] = None if items is None else self._given(place, name, stage, items)
            found[name] = self._stage(place, name, stage, items, shaky=name in shaky).under(stage.budget)
        return found

    def _failed_in(self, place: _Place) -> Iterator[str]:
        return (path.removeprefix(place.prefix) for path in self._failed if path.startswith(place.prefix))

    def _stage(self, place: _Place, path: str, stage: Stage, items: int | None, *, shaky: bool) -> Bound:
        if path in place.spec.loaded.nested:
            return self._pipeline(place, path, stage, known=place.known and not place.wirings[path].waits)
        tools = [path + use.within for use in stage.pipelines() if use.tool]
        own = self._without_tools(place, path, stage, items, shaky=shaky)
        if not tools or items == 0:
            return own
        if items is None:
            return own.plus(
                Bound(None, None, None, f"the number of calls of {place.prefix}{path} depends on results")
            )
        dearest = most_of(self._pipeline(place, tool, stage, known=False) for tool in tools)
        return own.plus(dearest.times(items * stage.most_tool_calls))

    def _without_tools(self, place: _Place, path: str, stage: Stage, items: int | None, *, shaky: bool) -> Bound:
        most = None if items is None else place.spec.most_calls(path, stage, items)
        if most is not None and place.spec.works_twice(path):
            most *= 2
        within = stage.inner()
        if most is not None or items is None or not within:
            return self._calls(place, path, stage, most, shaky=shaky)
        parts = {name: self._stage(place, f"{path}/{name}", one, items, shaky=shaky) for name, one in within.items()}
        alone = stage.model_copy(update={stage.inner_key: _roles_only(stage)})
        own = self._calls(place, path, stage, alone.estimate.calls(alone, items, None), shaky=shaky)
        times = items if stage.item_offers else 1  # the parts are those of one item
        whole = sum_of([*(part.times(times) for part in parts.values()), own])
        counts = {name: one.calls for name, one in parts.items()}
        return whole._replace(calls=stage.estimate.calls(stage, items, counts))

    def _pipeline(self, place: _Place, path: str, stage: Stage, *, known: bool) -> Bound:
        """Return the bound of the pipeline at a path; `known` inputs are those of the simulations."""
        spec = place.spec.within(path, place.spec.request, place.spec.inputs)
        inner = _Place(spec, prefix=f"{place.prefix}{path}/", known=known)
        rounds = 1 if stage.graph is None else stage.graph.rounds
        return sum_of(self._of(inner).values()).times(rounds).under(spec.limits).under(stage.budget)

    def _calls(self, place: _Place, path: str, stage: Stage, most: int | None, *, shaky: bool) -> Bound:
        roles = dict.fromkeys(role for _, role in stage.roles())
        if not roles or most == 0 or _is_spared(place.spec, stage):
            return Bound()
        if most is None:
            return Bound(None, None, None, f"the number of calls of {place.prefix}{path} depends on results")
        asking = self._asked(place.prefix + path)
        chains = [place.spec.roles[role].models for role in roles]
        in_batches = [_in_batches(place.spec, stage, role) for role in roles]
        known = {model.id for chain in chains for model in chain}
        chains += [
            tuple(member.info for member in place.spec.roles.chain_of(model))
            for model in sorted(asking.asked - known)
        ]
        given = asking.given or stage.own_max_tokens
        heard = stage.heard
        taken = None if shaky or heard is None or not asking.taken else asking.taken + heard
        live = most_of(_of_chain(chain, taken, given) for chain in chains)
        call = live.plus(most_of(_of_batches(info, taken, given) for info in in_batches if info is not None))
        call = call._replace(calls=live.calls)
        why = f"the input of a call of {place.prefix}{path} is unbounded" if call.tokens is None else ""
        return call.times(most)._replace(why=why)

    def _asked(self, path: str) -> Asking:
        """Return the largest calls of a stage and its inner stages in the simulations."""
        largest = Asking()
        for at, one in self._asking.items():
            if at == path or at.startswith(f"{path}/"):
                largest.add(one)
        return largest

    def _count(self, place: _Place, name: str, counts: Mapping[str, int | None]) -> int | None:
        """The most items that a stage is given; None if unknown."""
        wiring = place.wirings[name]
        if wiring.over is None:
            return 1
        if wiring.flow is not None:
            return counts.get(wiring.flow.stage)
        return None if wiring.over or wiring.depends or not place.known else self._items.get(place.prefix + name)

    def _given(self, place: _Place, name: str, stage: Stage, items: int) -> int | None:
        """The most items that a stage hands on; None if unknown."""
        most = stage.estimate.items(stage, items)
        hangs = place.wirings[name].waits or not place.known
        if most is not None or hangs or any(stage.roles()):
            return most
        return self._items.get(place.prefix + name)  # made of the inputs alone: the count of the simulations


def _roles_only(stage: Stage) -> dict[str, object]:
    """Return the entries of a stage's inner key that are not stages."""
    return {name: one for name, one in getattr(stage, stage.inner_key).items() if not isinstance(one, Stage)}


def _is_spared(spec: RunSpec, stage: Stage) -> bool:
    """Return True for a stage that calls no model, since its roles are `none`."""
    spared = [role for key, role in stage.roles() if key.partition(".")[0] in stage.spares]
    return stage.idle_when_spared and bool(spared) and not any(spec.roles[role].played for role in spared)


def _of_chain(chain: Sequence[ModelInfo], taken: int | None, given: int) -> Bound:
    """Return the bound of one call with all its attempts on all models of its chain.

    After an answer that misses its schema, the models before are called again.
    """
    whole = Bound()
    for number, model in enumerate(chain, start=1):
        read = least(taken, model.context)
        if read is None:
            return Bound(1, None, None)
        whole = whole.plus(Bound.of_call(model, read, given).times(ATTEMPTS * number))
    return whole._replace(calls=1)


def _in_batches(spec: RunSpec, stage: Stage, role: str) -> ModelInfo | None:
    """Return the first model of a role at its price in batches; None if its calls go in none."""
    price = spec.batch_price(stage, role)
    return None if price is None else spec.roles[role].models[0].model_copy(update={"price": price})


def _of_batches(model: ModelInfo, taken: int | None, given: int) -> Bound:
    """Return the bound of a call in all its batches, before it is made live."""
    read = least(taken, model.context)
    return Bound(1, None, None) if read is None else Bound.of_call(model, read, given).times(BATCHES)


def _rates(model: ModelInfo) -> Iterator[Decimal]:
    """Yield the prices of a token, input and output, at every volume."""
    price = model.price
    while price is not None:
        yield price.bound(1, 0)
        yield price.bound(0, 1)
        price = price.beyond
