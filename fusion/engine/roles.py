"""Roles: the models of a run, from the user, the pipeline, fusion.toml and the profile, in that order."""

import copy
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakKeyDictionary

from fusion.core.config import Settings
from fusion.core.errors import MissingKeyError, UsageError, close_names
from fusion.core.params import NO_MODEL, Defaults, RoleSpec, merged
from fusion.core.types import JsonSchema
from fusion.engine.calls import Terms
from fusion.models import catalog
from fusion.models.base import Model, ModelInfo, Price
from fusion.models.catalog import SAMPLING, describe, refused
from fusion.models.gateway import Gateway
from fusion.models.profiles import Profile, choose, missing_keys
from fusion.models.providers.replay import PREFIX
from fusion.models.speed import Latencies
from fusion.models.wrappers.fallback import Member
from fusion.models.wrappers.hedge import Hedging
from fusion.pipeline.loader import LoadedPipeline
from fusion.pipeline.spec import Pipeline
from fusion.stages.base import ModelStage
from fusion.tools.base import AnyTools, Toolbox, Tools

if TYPE_CHECKING:
    from fusion.models.batches.window.window import Window

FRONTIER: Final = "frontier"
REVIEWER: Final = "reviewer"

_MOST_TERMS = 1_000
_AS = "; write it as provider/model, such as openai/gpt-5.6"


@dataclass(frozen=True, slots=True)
class RoleModel:
    """The chain of models of a role, and the parameters of their calls."""

    chain: tuple[Member, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    concurrency: int | None = None
    resilience: Mapping[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The description of each model of the chain, in order; of a role that is `none`, that of no model."""
        return tuple(member.info for member in self.chain)

    @property
    def played(self) -> bool:
        """False for a role that is `none`."""
        return self.chain[0].info.id != NO_MODEL


class RoleModels(Mapping[str, RoleModel]):
    """The models of a run by role. `notes` name the models that were left out."""

    def __init__(
        self,
        roles: Mapping[str, RoleModel],
        gateway: Gateway,
        *,
        notes: Iterable[str] = (),
        nested: "Mapping[str, RoleModels] | None" = None,
    ) -> None:
        self.nested = dict(nested or {})
        """The models of the pipelines that stages run, by the stages' paths."""
        self.notes: tuple[str, ...] = tuple(
            dict.fromkeys([*notes, *(note for one in self.nested.values() for note in one.notes)])
        )
        self._roles = dict(roles)
        self._gateway = gateway
        self.latencies = gateway.latencies
        self.hedging: Hedging | None = gateway.hedging
        self.live_notes: dict[bool, tuple[str, ...]] = {}
        """Notes on calls meant for batches that are made live: of runs with `--batch`, and of others."""
        self._terms: dict[tuple[object, ...], Terms] = {}
        self.batches = True

    def __getitem__(self, role: str) -> RoleModel:
        return self._roles[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)

    @cached_property
    def all(self) -> dict[str, RoleModel]:
        """Every role with its models, nested pipelines included; outer roles hide inner ones of the same name."""
        found = dict(self._roles)
        for roles in self.nested.values():
            found = {**roles.all, **found}
        return found

    @cached_property
    def models(self) -> dict[str, ModelInfo]:
        """Every model that may be called, by id, nested pipelines included."""
        found = {info.id: info for role in self.values() if role.played for info in role.models}
        for roles in self.nested.values():
            found.update(roles.models)
        return found

    @cached_property
    def prices(self) -> dict[str, Price | None]:
        """The price of each model, by its id."""
        return {model_id: info.price for model_id, info in self.models.items()}

    @cached_property
    def price_sources(self) -> dict[str, str]:
        """The origin of each price, by the id of its model."""
        return {model_id: info.priced_by for model_id, info in self.models.items()}

    @cached_property
    def unpriced(self) -> tuple[str, ...]:
        """A note for each model of unknown price."""
        return tuple(_unpriced(model_id) for model_id, price in self.prices.items() if price is None)

    @cached_property
    def first(self) -> frozenset[str]:
        """The ids of the first models of all roles."""
        return frozenset(role.models[0].id for role in self.all.values() if role.played)

    def terms(self, key: tuple[object, ...], schema: JsonSchema | None, make: Callable[[], Terms]) -> Terms:
        """Return the terms of calls, which are made once for each stage, role and schema."""
        found = self._terms.get(key)
        if found is None or found.schema is not schema:
            if len(self._terms) >= _MOST_TERMS:
                self._terms.clear()
            found = self._terms[key] = make()
        return found

    def window(self, model_id: str) -> "Window | None":
        """Return the window in which calls to a model gather for its batch API; None without one."""
        return self._gateway.window(model_id) if self.batches else None

    def batched(self, model: Model, window: "Window", **of_run: Any) -> Model:
        """Return a chain of models whose calls go through the window of its first one."""
        return self._gateway.batched(model, window, **of_run)

    def batch_price(self, model_id: str) -> Price | None:
        """Return the price of a model in batches; None if it has no batch API, or an unknown price."""
        door = None if self.no_batches(model_id) is not None else self._gateway.batch_door(model_id)
        return None if door is None else door.price

    def no_batches(self, model_id: str) -> str | None:
        """Return the reason why a model has no batch API; None if it has one."""
        return self._gateway.no_batches(model_id)

    def played_by(self, play: Callable[[Member], Member]) -> "RoleModels":
        """Return the same roles, with each chain replaced by a stand-in for its first model."""
        roles = {role: replace(one, chain=(play(one.chain[0]),)) for role, one in self.items()}
        nested = {path: one.played_by(play) for path, one in self.nested.items()}
        played = RoleModels(roles, self._gateway, nested=nested)
        played.latencies, played.hedging, played.batches = Latencies(), None, False
        return played

    def named(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Return the ids of the models that match one of these patterns, as those of a policy."""
        return tuple(model_id for model_id in self.models if self._gateway.is_named(model_id, patterns))

    def surviving(self, lost: Collection[str]) -> "RoleModels":
        """Return the same roles without these models; a role that has no other keeps its chain."""

        def left(one: RoleModel) -> RoleModel:
            chain = tuple(member for member in one.chain if member.info.id not in lost)
            return replace(one, chain=chain or one.chain)

        roles = {role: left(one) for role, one in self.items()}
        nested = {path: one.surviving(lost) for path, one in self.nested.items()}
        return RoleModels(roles, self._gateway, notes=self.notes, nested=nested)

    def chain_of(self, model_id: str) -> tuple[Member, ...]:
        """Return the chain of a model, with this model first."""
        for role in self.values():
            first = [member for member in role.chain if member.info.id == model_id]
            if first:
                return (*first, *(member for member in role.chain if member.info.id != model_id))
        return (self._gateway.member(model_id),)


def _unpriced(model_id: str) -> str:
    near = _near(model_id) if catalog.reachable(model_id) and not catalog.known(model_id) else ""
    return (
        f"no price is known for {model_id!r}: its cost is not counted, nor held by a limit in dollars; "
        f"limit `tokens` or `calls`{near}"
    )


def used_roles(pipeline: Pipeline) -> dict[str, str]:
    """Return every role that the pipeline's stages name, and the first place that names it."""
    used: dict[str, str] = {}
    for name, stage in pipeline.stages.items():
        for key, role in stage.roles():
            used.setdefault(role, f"stages.{name}.{key}")
    return used


def _all_used(loaded: LoadedPipeline) -> set[str]:
    """Every role of a pipeline and of the pipelines that it runs."""
    return set(used_roles(loaded.pipeline)).union(*map(_all_used, loaded.nested.values()))


def _check_spared(role: str, pipeline: Pipeline) -> None:
    """Raise UsageError if a stage needs a model for a role that is `none`."""
    for name, stage in pipeline.stages.items():
        for key, used in stage.roles():
            if used == role and key.partition(".")[0] not in stage.spares:
                raise UsageError(
                    f"stages.{name}.{key}: role {role!r} is {NO_MODEL!r}, and a {stage.kind} stage needs a model"
                    " there; only the `role` of a review may do without: give the role a model"
                )


def is_embedded(model_id: str) -> bool:
    """Return True for the id of a model that runs in a process of this machine."""
    return model_id.startswith(("local/", "local:"))


def stray_limits(settings: Settings, own: Collection[str]) -> Iterator[str]:
    """Yield a note for each `[limits.NAME]` that no call can meet: no provider, endpoint or model has the name.

    `own` are the ids of the user's model objects.
    """
    named = dict.fromkeys(name for layer in settings.ceilings for name in layer.models)
    here = {*settings.endpoints, *own, *(one.partition("/")[0] for one in own)}
    for name in named:
        if name not in here and not catalog.reachable(name) and name not in catalog.providers():
            near = _near(name, here | catalog.providers()) or "; name a provider, an endpoint, or provider/model"
            yield f"[limits.{name}] holds nothing: no provider, endpoint or model is named {name!r}{near}"


def _check_params(role: str, asked: RoleModel, pipeline: Pipeline, answer_tokens: int | None) -> None:
    """Refuse a parameter that a model of the role does not accept; defaults are dropped silently instead."""
    for name, stage in pipeline.stages.items():
        if not (isinstance(stage, ModelStage) and role in dict.fromkeys(used for _, used in stage.roles())):
            continue
        params = merged(stage.params(), asked.params)
        for model in asked.models:
            for param in sorted(refused(model, params)):
                where = f"stages.{name}.{param}" if param in stage.params() else f"role {role!r}"
                raise UsageError(
                    f"{where}: the model {model.id!r} of role {role!r} takes no `{param}`{_hint(param, model)}"
                )
        own = stage.max_tokens or pipeline.defaults.max_tokens or stage.own_max_tokens
        budget, most = params.get("thinking_budget", 0), own if answer_tokens is None else min(own, answer_tokens)
        if budget >= most:
            raise UsageError(
                f"stages.{name}: `thinking_budget` {budget} of role {role!r} leaves nothing of `max_tokens` {most} "
                "for the answer; raise `max_tokens`"
            )


def _hint(param: str, model: ModelInfo) -> str:
    """Return the alternative to a parameter that a model does not accept."""
    if param in SAMPLING and param not in model.refuses:
        return " while it reasons; set `reasoning_effort: none`, or leave it out"
    if param == "thinking_budget" and "reasoning_effort" not in model.refuses:
        return "; set `reasoning_effort`"
    return "; leave it out, or use another model (under `defaults` it holds for those that take it)"


def check_reachable(role: str, model_id: str, settings: Settings) -> None:
    """Raise UsageError for a model of no known provider, MissingKeyError for one without a key."""
    info = describe(model_id, settings)
    if info.local or model_id.startswith(PREFIX):  # checked by the gateway
        return
    if model_id not in settings.endpoints and not catalog.reachable(model_id):
        near = _near(model_id, settings.endpoints) or _AS
        raise UsageError(f"role {role!r}: no provider is known for the model {model_id!r}{near}")
    keys = missing_keys(info.keys, settings)
    if keys:
        are = "are" if len(keys) > 1 else "is"
        raise MissingKeyError(
            f"role {role!r} needs {model_id!r}, and {' and '.join(keys)} {are} not set. Set it, or choose another"
            " profile: `--profile local` runs on embedded models without any key (`fusion models pull small strong`)",
            keys=keys,
        )


def _near(model_id: str, endpoints: Iterable[str] = ()) -> str:
    found = [*get_close_matches(model_id, endpoints, n=1), *catalog.suggest(model_id)]
    names = " or ".join(repr(name) for name in found[:3])
    return f"; did you mean {names}?" if names else ""


RoleGiven = str | Model | RoleSpec
"""A model's id, a model, or a chain with parameters."""


class Cast:
    """The models and tools of one Fusion. `own` holds the ids of the user's model objects."""

    def __init__(
        self,
        settings: Settings,
        gateway: Gateway,
        *,
        models: Mapping[str, Model],
        profile: str | None,
        roles: Mapping[str, RoleGiven],
        model: RoleGiven | None,
        toolbox: Toolbox = Tools.NONE,
    ) -> None:
        self.settings = settings
        self.toolbox = toolbox
        self.gateway = gateway
        self.own = {*models}
        self.profile_given = profile
        self.answer_tokens: int | None = None
        """The most output tokens of an answer, continuations included."""
        self._lock = threading.Lock()
        self._reached: set[str] = set()  # models that may be called, with the keys of these settings
        self._resolved = WeakKeyDictionary[LoadedPipeline, RoleModels]()
        self._roles = {role: self.spec(given) for role, given in roles.items()}
        self._model = None if model is None else self.spec(model)

    @cached_property
    def profile(self) -> Profile:
        """The profile in use: as given, else by FUSION_PROFILE, else by the keys that are set, else `local`."""
        return choose(self.settings, self.profile_given)

    @property
    def expected(self) -> set[str]:
        """The ids of the models that calls are expected to: the one of every role, or those of roles and profile."""
        if self._model is not None:
            return {*self._model.chain}
        chains = {**self.profile.roles, **{role: one.chain for role, one in self._roles.items()}}
        return {model_id for chain in chains.values() for model_id in chain if model_id != NO_MODEL}

    def changed(
        self,
        *,
        profile: str | None,
        roles: Mapping[str, RoleGiven] | None,
        model: RoleGiven | None,
        defaults: Defaults | None,
        answer_tokens: int | None = None,
    ) -> "Cast":
        """Return a cast on the same gateway with the given changes."""
        other = self._copied()
        if profile is not None:
            other.profile_given = profile
        if roles is not None:
            other._roles = {role: self.spec(given) for role, given in roles.items()}
        if model is not None:
            other._model = self.spec(model)
        if defaults is not None:
            both = defaults.over(self.settings.defaults)
            other.settings = self.settings.model_copy(update={"defaults": both})
        if answer_tokens is not None:
            other.answer_tokens = answer_tokens
        return other

    def with_keys(self, keys: Iterable[str]) -> "Cast":
        """Return this cast as if these keys were set, and every tool were there, for previews."""
        other = self._copied()
        other.settings = self.settings.model_copy(update={"keys": self.settings.keys.union(keys)})
        other.toolbox = AnyTools()
        other._reached = set()
        return other

    def _copied(self) -> Self:
        """Return a copy to change, without what was found for this cast."""
        other = copy.copy(self)
        other._resolved = WeakKeyDictionary()
        other.__dict__.pop("profile", None)
        return other

    def spec(self, given: RoleGiven) -> RoleSpec:
        """Return the full form of a role, and register a model object under its id."""
        if isinstance(given, RoleSpec):
            return given
        if isinstance(given, Model):
            self.gateway.add(given)
            self.own.add(given.info.id)
            return RoleSpec(chain=(given.info.id,))
        return RoleSpec(chain=(given,))

    def with_defaults(self, loaded: LoadedPipeline) -> LoadedPipeline:
        """Return the pipeline with the defaults of the user's settings beneath its own."""
        return loaded.over(self.settings.defaults)

    def of(self, loaded: LoadedPipeline, before: Mapping[str, RoleSpec] | None = None) -> RoleModels:
        """Return the models of a pipeline; roles that the user does not set come from the run `before`, if any.

        Those of a pipeline on its own are found once. Raises UsageError or MissingKeyError.
        """
        with self._lock:
            found = self._resolved.get(loaded) if before is None else None
            if found is None:
                found = self._resolve(loaded, self._given(loaded, before), {})
                if before is None:
                    self._resolved[loaded] = found
            return found

    def _resolve(
        self, loaded: LoadedPipeline, given: Mapping[str, RoleSpec], inherited: Mapping[str, RoleSpec]
    ) -> RoleModels:
        """Return the models of a pipeline, which inherits the roles of the pipelines around it."""
        declared = {**inherited, **loaded.pipeline.roles}
        profile, notes, roles = self.profile, list[str](), {}
        for role, where in used_roles(loaded.pipeline).items():
            spec = given.get(role) or declared.get(role) or self.settings.roles.get(role)
            own_notes = notes if spec is not None else []  # a profile leaves out models without a key silently
            shipped = spec is None
            if spec is None and role in profile.roles:
                spec = self._by_profile(role, {**self.settings.roles, **declared, **given})
            if spec is None:
                known = {*given, *declared, *self.settings.roles, *profile.roles}
                raise UsageError(
                    f"{where}: no role {role!r} in the pipeline or profile {profile.name!r}{close_names(role, known)}"
                )
            if spec.chain == (NO_MODEL,):
                _check_spared(role, loaded.pipeline)
            allowed = self._allowed(spec.chain, notes) if shipped else spec.chain
            chain = self._callable(role, allowed, own_notes)
            members = tuple(self.gateway.member(model_id, concurrency=spec.concurrency) for model_id in chain)
            roles[role] = RoleModel(members, spec.params(), spec.timeout, spec.concurrency, spec.resilience())
            _check_params(role, roles[role], loaded.pipeline, self.answer_tokens)
        nested = {path: self._resolve(one, given, declared) for path, one in loaded.nested.items()}
        return RoleModels(roles, self.gateway, notes=notes, nested=nested)

    def _by_profile(self, role: str, given: Mapping[str, RoleSpec]) -> RoleSpec:
        """Return a role of the profile in use. A reviewer is the user's own frontier model, if there is one.

        An embedded model does not take the place of `none`: its verdicts catch nothing.
        """
        chain, own = self.profile.roles[role], given.get(FRONTIER)
        if role != REVIEWER or own is None or (chain == (NO_MODEL,) and all(map(is_embedded, own.chain))):
            return RoleSpec(chain=chain)
        return own

    def _allowed(self, chain: Sequence[str], notes: list[str]) -> Sequence[str]:
        """Return the models of a profile's chain that the policy allows, or all if it allows none.

        Adds a note for each model left out.
        """
        refused = {model_id: self.gateway.refusal(model_id) for model_id in chain}
        allowed = [model_id for model_id, why in refused.items() if why is None]
        if not allowed:
            return chain
        notes += [f"left out of its chain: {why.note}" for why in refused.values() if why is not None]
        return allowed

    def _callable(self, role: str, chain: Iterable[str], notes: list[str]) -> list[str]:
        """Return the models of a chain that have a key; add a note for each model left out."""
        usable: list[str] = []
        missing: list[MissingKeyError] = []
        for model_id in chain:
            self.gateway.check(model_id)
            try:
                if model_id not in self.own and model_id not in self._reached and model_id != NO_MODEL:
                    check_reachable(role, model_id, self.settings)
                    self._reached.add(model_id)
                usable.append(model_id)
            except MissingKeyError as error:
                missing.append(error)
        if not usable:
            raise missing[0]
        notes += [f"left out of its chain: {str(error).partition('. Set it')[0]}" for error in missing]
        return usable

    def _given(self, loaded: LoadedPipeline, before: Mapping[str, RoleSpec] | None) -> dict[str, RoleSpec]:
        pipeline, used = loaded.pipeline, _all_used(loaded)
        unknown = sorted(set(self._roles) - {*used, *pipeline.roles, *self.settings.roles, *self.profile.roles})
        if unknown:
            raise UsageError(f"no role {unknown[0]!r} in {pipeline.name!r}; it has: {', '.join(sorted(used))}")
        everywhere = {} if self._model is None else dict.fromkeys(used, self._model)
        of_before = {} if before is None or self.profile_given else before
        return {**of_before, **everywhere, **self._roles}
