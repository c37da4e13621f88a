"""What a run can come to at most: the worst case of every attempt that its stages may make."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple, TypeVar

from fusion.core.types import Limits
from fusion.engine.run_spec import RunSpec
from fusion.models.base import ModelInfo
from fusion.models.wrappers.retry import ATTEMPTS
from fusion.pipeline.dataflow import Wiring
from fusion.quote.simulate import Asking, Supposed
from fusion.stages.base import Stage

T = TypeVar("T", int, Decimal)


class Bound(NamedTuple):
    """Calls, tokens and dollars at most, each None where there is no bound; `why` says why there is none.

    Attempts made again are counted in tokens and dollars, and not in calls. What has no known price is not counted
    in the dollars.
    """

    calls: int | None = 0
    tokens: int | None = 0
    usd: Decimal | None = Decimal(0)
    why: str = ""

    def plus(self, other: "Bound") -> "Bound":
        return Bound(
            None if self.calls is None or other.calls is None else self.calls + other.calls,
            None if self.tokens is None or other.tokens is None else self.tokens + other.tokens,
            None if self.usd is None or other.usd is None else self.usd + other.usd,
            self.why or other.why,
        )

    def under(self, limits: Limits | None) -> "Bound":
        """The bound under the limits of a budget."""
        if limits is None:
            return self
        return Bound(
            _least(self.calls, limits.calls),
            _least(self.tokens, limits.tokens),
            _least(self.usd, limits.usd),
            self.why,
        )


def bounds(spec: RunSpec, worst: Sequence[Supposed]) -> dict[str, Bound]:
    """The bound of every stage of the pipeline, those of nested pipelines within theirs.

    `worst` are runs in which everything went as costly as it may: what their prompts came to is what a call may
    read. Where such a run could not go on, it is all that fits into the model's context.
    """
    return _Level(spec, worst).bounds()


def within(bounds: Iterable[Bound], limits: Limits, models: Iterable[ModelInfo]) -> Bound:
    """The bound of a run: of its stages together, under its budget; tokens that are limited limit dollars too."""
    whole = sum_of(bounds).under(limits)
    dearest = max((rate for model in models for rate in _rates(model)), default=None)
    if limits.tokens is None or dearest is None:
        return whole
    return whole._replace(usd=_least(whole.usd, dearest * limits.tokens))


def sum_of(bounds: Iterable[Bound]) -> Bound:
    whole = Bound()
    for bound in bounds:
        whole = whole.plus(bound)
    return whole


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
    """Works out the bounds of one pipeline's stages."""

    def __init__(self, spec: RunSpec, worst: Sequence[Supposed]) -> None:
        self._whole = _Place(spec)
        self._asking: dict[str, Asking] = {}
        self._items: dict[str, int] = {}
        self._failed: set[str] = set()
        for one in worst:
            self._take(one)

    def bounds(self) -> dict[str, Bound]:
        return self._of(self._whole)

    def _take(self, one: Supposed) -> None:
        for path, asking in one.asking.items():
            seen = self._asking.setdefault(path, Asking())
            seen.taken = max(seen.taken, asking.taken)
            seen.given = max(seen.given, asking.given)
            seen.asked |= asking.asked
        for path, items in one.items.items():
            self._items[path] = max(items, self._items.get(path, 0))
        self._failed |= {part.stage for part in one.result.failed}

    def _of(self, place: _Place) -> dict[str, Bound]:
        """The bounds of a pipeline's stages by name."""
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
            items = self._count(place, name, stage, counts)
            counts[name] = None if items is None else self._given(place, name, stage, items)
            found[name] = self._stage(place, name, stage, items, shaky=name in shaky).under(stage.budget)
        return found

    def _failed_in(self, place: _Place) -> Iterator[str]:
        return (path.removeprefix(place.prefix) for path in self._failed if path.startswith(place.prefix))

    def _stage(self, place: _Place, path: str, stage: Stage, items: int | None, *, shaky: bool) -> Bound:
        if path in place.spec.loaded.nested:
            return self._pipeline(place, path, stage)
        most = None if items is None else stage.estimate.calls(stage, items, None)
        within = stage.inner()
        if most is not None or items is None or not within:
            return self._calls(place, path, stage, most, shaky=shaky)
        parts = {name: self._stage(place, f"{path}/{name}", one, items, shaky=shaky) for name, one in within.items()}
        alone = stage.model_copy(update={stage.inner_key: _roles_only(stage)})
        own = self._calls(place, path, stage, alone.estimate.calls(alone, items, None), shaky=shaky)
        whole = sum_of([*parts.values(), own])
        counts = {name: one.calls for name, one in parts.items()}
        return whole._replace(calls=stage.estimate.calls(stage, items, counts))

    def _pipeline(self, place: _Place, path: str, stage: Stage) -> Bound:
        spec = place.spec.within(path, place.spec.request, place.spec.inputs)
        known = place.known and not place.wirings[path].waits
        inner = _Place(spec, prefix=f"{place.prefix}{path}/", known=known)
        return sum_of(self._of(inner).values()).under(spec.limits).under(stage.budget)

    def _calls(self, place: _Place, path: str, stage: Stage, most: int | None, *, shaky: bool) -> Bound:
        roles = dict.fromkeys(role for _, role in stage.roles())
        if not roles or most == 0:
            return Bound()
        if most is None:
            return Bound(None, None, None, f"how many calls {place.prefix}{path} makes hangs on results")
        asking = self._asked(place.prefix + path)
        chains = [place.spec.roles[role].models for role in roles]
        known = {model.id for chain in chains for model in chain}
        chains += [
            tuple(member.info for member in place.spec.roles.chain_of(model))
            for model in sorted(asking.asked - known)
        ]
        given = asking.given or stage.own_max_tokens
        taken = None if shaky or not asking.taken else asking.taken
        costs = [_of_chain(chain, taken, given) for chain in chains]
        tokens, usd = [cost[0] for cost in costs], [cost[1] for cost in costs]
        why = f"nobody knows how much a call of {place.prefix}{path} may read" if None in tokens else ""
        return Bound(most, _times(most, tokens), _times(most, usd), why)

    def _asked(self, path: str) -> Asking:
        """The most that calls of a stage, and of those within it, were seen to take."""
        found = [one for at, one in self._asking.items() if at == path or at.startswith(f"{path}/")]
        asked = {model for one in found for model in one.asked}
        return Asking(
            max((one.taken for one in found), default=0), max((one.given for one in found), default=0), asked
        )

    def _count(self, place: _Place, name: str, stage: Stage, counts: Mapping[str, int | None]) -> int | None:
        """How many items a stage is given at most, where that can be said."""
        uses = [use for use in stage.expressions() if use.flows]
        if not uses:
            return 1
        wiring = place.wirings[name]
        flow = wiring.flows.get(uses[0].source)
        if flow is not None:
            return counts.get(flow.stage)
        reads = any(
            path[0] in place.spec.pipeline.stages for path in place.spec.prompts.expression(uses[0].source).paths
        )
        return None if reads or not place.known else self._items.get(place.prefix + name)

    def _given(self, place: _Place, name: str, stage: Stage, items: int) -> int | None:
        """How many items a stage hands on at most."""
        most = stage.estimate.items(stage, items)
        hangs = place.wirings[name].waits or not place.known
        if most is not None or hangs or any(stage.roles()):
            return most
        return self._items.get(place.prefix + name)  # of what is made of the inputs alone, as many as there were


def _roles_only(stage: Stage) -> dict[str, object]:
    """What stands under a stage's inner key without the stages."""
    return {name: one for name, one in getattr(stage, stage.inner_key).items() if not isinstance(one, Stage)}


def _of_chain(chain: Sequence[ModelInfo], taken: int | None, given: int) -> tuple[int | None, Decimal | None]:
    """Tokens and dollars of one call at most: every model of its chain is asked as often as it may be.

    An answer whose shape no model keeps to is asked of each again by those before it.
    """
    tokens, usd = 0, Decimal(0)
    for number, model in enumerate(chain, start=1):
        read = _least(taken, model.context)
        if read is None:
            return None, None
        tokens += ATTEMPTS * number * (read + given)
        if model.price is not None:
            usd += ATTEMPTS * number * model.price.bound(read, given)
    return tokens, usd


def _times(calls: int, each: Sequence[T | None]) -> T | None:
    known = [one for one in each if one is not None]
    return None if len(known) < len(each) else max(known) * calls


def _least(one: T | None, other: T | None) -> T | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _rates(model: ModelInfo) -> Iterator[Decimal]:
    """What a token costs at most."""
    price = model.price
    while price is not None:
        yield price.bound(1, 0)
        yield price.bound(0, 1)
        price = price.beyond
