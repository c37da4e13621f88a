"""Gateway: from the id of a model to its provider, with the wrappers around it in their one order."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any

from fusion.core.config import Ceilings, Settings, is_padded, secret
from fusion.core.config.policy import Refusal
from fusion.core.errors import ModelConnectionError, PolicyError, UsageError
from fusion.core.params import NO_MODEL, CacheMode
from fusion.models.base import Model, ModelInfo, Price, checked
from fusion.models.catalog import calls_tools, describe
from fusion.models.pace import Gate, Pace, Rates
from fusion.models.policy import Guard, Permitted, check_fields, is_named
from fusion.models.providers.direct import direct, of_endpoint, of_local
from fusion.models.providers.doors import wire_of
from fusion.models.providers.http.session import SESSIONS
from fusion.models.providers.local.local import LocalModels
from fusion.models.providers.replay import PREFIX, ReplayModel
from fusion.models.speed import Latencies
from fusion.models.tokens import Margins, TokenBounds
from fusion.models.wrappers.breaker import Breaker, Guarded, Trial
from fusion.models.wrappers.budget import Metered, WorstCase
from fusion.models.wrappers.cache import Cached, ReplyCache, RunCache
from fusion.models.wrappers.contained import Contained
from fusion.models.wrappers.fallback import Member
from fusion.models.wrappers.formed import Formed
from fusion.models.wrappers.hedge import Hedging
from fusion.models.wrappers.journal import Journaled, Unreachable
from fusion.models.wrappers.limit import Limited
from fusion.models.wrappers.observed import Hear, Observed
from fusion.models.wrappers.prompt_cache import Primed, is_marked
from fusion.models.wrappers.retry import Retrying
from fusion.store.accounts import Accounts
from fusion.store.base import NullJournal
from fusion.store.journal import Journal

if TYPE_CHECKING:
    from fusion.models.batches.base import BatchDoor
    from fusion.models.batches.window.window import Window

_CONCURRENCY = 500
_OPEN_SERVERS = frozenset({"hosted_vllm", "vllm", "lm_studio", "llamafile", "ollama", "ollama_chat", "xinference"})
"""Providers that serve any model, with a chat template of any kind."""
_HASTY = 10.0
"""Longest Retry-After, in seconds, that is worth waiting for while a fallback is left."""


class Gateway:
    """Creates each model once; all runs share its slots and sockets.

    The wrappers, outside in: Formed (tools over a schema, where a model calls none) > Retrying > Guarded (circuit
    breaker) > Metered (budget, ledger) > Primed (prompt cache) > Limited (slots, pace, timeout) > Contained
    (cancellations of its own) > provider. The caller puts a Fallback around the members of a chain, and
    `CallRecorder` around that. `models` are the user's own, by id; they take precedence over providers. The policy is
    enforced here: no other place makes a model.
    """

    def __init__(
        self, settings: Settings, *, models: Mapping[str, Model] | None = None, accounts: Accounts | None = None
    ) -> None:
        self._accounts = accounts
        self.latencies = Latencies()
        self.hedging = Hedging()
        self.settings = settings
        self._settings = settings
        self._key_names = frozenset(one.key_env for one in settings.endpoints.values() if one.key_env is not None)
        self._own = {name: checked(model) for name, model in (models or {}).items()}
        self._guard = Guard(settings)
        self._local = LocalModels(settings, self._client_of)
        self._tokens = TokenBounds()
        self._margins = Margins()
        self._made: dict[tuple[str, int | None], Member] = {}
        self._paces: dict[str, Pace] = {}
        self._providers: dict[str, Gate] = {}
        self._breakers: dict[str, Breaker] = {}
        self._trials: list[Trial] = []
        self._doors: dict[str, BatchDoor | None] = {}
        self._windows: dict[str, Window] = {}

    def add(self, model: Model) -> None:
        """Register a model of the user under its id. Raises UsageError if another model has that id."""
        model_id = checked(model).info.id
        if self._own.setdefault(model_id, model) is not model:
            raise UsageError(f"two models have the id {model_id!r}: give each an id of its own, as its `info.id`")

    def member(self, model_id: str, *, concurrency: int | None = None) -> Member:
        """Return the wrapped model, for a chain. Raises UsageError or MissingKeyError if it cannot be called.

        Raises PolicyError for one that the policy forbids, whatever asks for it.
        """
        key = (model_id, concurrency)
        if model_id == NO_MODEL:
            return _nobody()
        if key not in self._made:
            self.check(model_id)
            if self._guard.outages and self.is_named(model_id, self._guard.outages):
                return _out(self._info(model_id))
            model = self._provider(model_id)
            if self._guard.rules:
                model = Permitted(model, self.check)
            limited: Model = Limited(
                Contained(model),
                concurrency=concurrency,
                gates=self._gates_of(model_id, model.info),
                slots=self._local.slots if model.info.local else None,
            )
            breaker = self._breakers.setdefault(model_id, Breaker(model_id))
            if is_marked(model.info):
                limited = Primed(limited)
            trial = Trial(limited, breaker, self._metered)
            first = Guarded(self._metered(limited), breaker, waits=False, trial=trial)
            last = Guarded(self._metered(limited), breaker, waits=True)
            self._trials.append(trial)
            self._made[key] = Member(
                self._formed(Retrying(first, hasty=_HASTY), model_id),
                self._formed(Retrying(last), model_id),
                breaker,
                self._concurrency_of(model_id, concurrency),
            )
        return self._made[key]

    def _formed(self, model: Model, model_id: str) -> Model:
        """Return the model, with a form for calls of tools around one that calls none by itself."""
        own = model_id in self._own and not model.info.local
        return model if own or model_id.startswith(PREFIX) or calls_tools(model.info) else Formed(model)

    def batch_door(self, model_id: str) -> "BatchDoor | None":
        """Return the batch API of a model; None if it has none, for which `no_batches` gives the reason.

        Raises PolicyError for a model that the policy forbids.
        """
        if model_id not in self._doors:
            self.check(model_id)
            here = self.no_batches(model_id) is None
            self._doors[model_id] = self._door(model_id) if here else None
        return self._doors[model_id]

    def no_batches(self, model_id: str) -> str | None:
        """Return the reason why a model has no batch API; None if it has one."""
        if model_id in self._own:
            here = self._own[model_id].batch_door()
            return f"{model_id!r} is a model of the program's own without one" if here is None else None
        if model_id.startswith(PREFIX):
            return f"{model_id!r} repeats kept answers"
        if self._guard.outages and self.is_named(model_id, self._guard.outages):
            return f"{model_id!r} is out of reach in this drill"
        from fusion.models.batches.doors import no_batches  # a run without batches needs none of it

        return no_batches(self._info(model_id), self._settings)

    def window(self, model_id: str) -> "Window | None":
        """Return the window in which calls of all runs to a model gather for its batch API; None without one."""
        door = self.batch_door(model_id)
        if door is None:
            return None
        if model_id not in self._windows:
            from fusion.models.batches.window.window import Window

            self._windows[model_id] = Window(door, self._settings.batches)
        return self._windows[model_id]

    def batched(self, model: Model, window: "Window", **of_run: Any) -> Model:
        """Return a chain of models whose calls go through the window of its first one."""
        from fusion.models.batches.window.batched import Batched
        from fusion.models.batches.window.payment import Purse

        info = window.info
        worst = WorstCase(info.id, window.price, tokens=self._tokens, margins=self._margins)
        return Batched(model, window, Purse(info.id, window.price, info.price, worst), **of_run)

    def _door(self, model_id: str) -> "BatchDoor | None":
        from fusion.models.batches.doors import batch_door

        if model_id in self._own:
            return self._own[model_id].batch_door()
        info = self._info(model_id)
        if not self._guard.rules:
            return batch_door(info, self._settings)
        return batch_door(info, self._settings, lambda request: check_fields(request, info, self.check))

    def check(self, model_id: str) -> None:
        """Raise PolicyError for a model that the policy forbids."""
        refused = self.refusal(model_id)
        if refused is not None:
            raise PolicyError(str(refused))

    def refusal(self, model_id: str) -> Refusal | None:
        """Return the reason why the policy forbids a model; None if it is allowed, as is a replay of kept answers."""
        if not self._guard.rules or model_id == NO_MODEL or model_id.startswith(PREFIX):
            return None
        return self._guard.refusal(self._info(model_id), model_id)

    def is_named(self, model_id: str, patterns: Sequence[str]) -> bool:
        """Return True if one of these patterns names a model, as those of a policy."""
        return is_named(patterns, self._guard.subject(self._info(model_id), model_id))

    def _info(self, model_id: str) -> ModelInfo:
        own = self._own.get(model_id)
        return describe(model_id, self._settings) if own is None else own.info

    async def warm(self, model_ids: Iterable[str]) -> None:
        """Load the libraries of these models, so that the first call does not wait for them."""
        for model_id in model_ids:
            if model_id not in self._own and not model_id.startswith(PREFIX):
                await self._library_of(model_id)

    async def close(self) -> None:
        """Release all sockets and processes."""
        for trial in self._trials:
            trial.close()
        for window in self._windows.values():
            await window.close()
        for model in self._own.values():
            await model.close()
        self._local.close()
        await SESSIONS.close()
        hosted = sys.modules.get("fusion.models.providers.litellm")
        if hosted is not None:  # without a model of litellm's there is nothing to close, and nothing to load
            await hosted.close_all()

    def _metered(self, model: Model) -> Model:
        return Metered(model, tokens=self._tokens, margins=self._margins)

    async def _library_of(self, model_id: str) -> None:
        if wire_of(describe(model_id, self._settings), self._settings) == "direct":
            await SESSIONS.ready()
            return
        from fusion.models.providers.litellm import warm

        await warm()

    def _provider(self, model_id: str) -> Model:
        if model_id in self._own:
            return self._own[model_id]
        if model_id.startswith(("local/", "local:")):
            return self._local.model(model_id)
        if model_id.startswith(PREFIX):
            return ReplayModel(model_id)
        info = describe(model_id, self._settings)
        if wire_of(info, self._settings) == "litellm":
            return self._by_litellm(info)
        endpoint = self._settings.endpoints.get(model_id)
        if endpoint is not None:
            return of_endpoint(endpoint, info, self._key_names)
        return direct(model_id, info=info, key_names=self._key_names, thinks=_thinks(info))

    def _client_of(self, alias: str, api_base: str, info: ModelInfo) -> Model:
        """Return the model of an embedded server."""
        if self._settings.wire == "direct":
            return of_local(alias, api_base, info)
        from fusion.models.providers.litellm import LiteLLMModel

        return LiteLLMModel(f"openai/{alias}", info=info, api_base=api_base, api_key="none")

    def _by_litellm(self, info: ModelInfo) -> Model:
        from fusion.models.providers.litellm import LiteLLMModel

        endpoint = self._settings.endpoints.get(info.id)
        if endpoint is None:
            return LiteLLMModel(
                info.id, info=info, api_key=_key(info), key_names=self._key_names, thinks=_thinks(info)
            )
        key = "none" if endpoint.key_env is None else secret(endpoint.key_env)
        return LiteLLMModel(
            f"openai/{endpoint.model}",
            info=info,
            api_base=endpoint.api_base,
            api_key=key,
            key_names=self._key_names,
            thinks=endpoint.thinks,
        )

    def _concurrency_of(self, model_id: str, concurrency: int | None) -> int | None:
        """Return the lowest concurrency set for a model, by its role or its endpoint."""
        endpoint = self._settings.endpoints.get(model_id)
        of_endpoint = None if endpoint is None else endpoint.concurrency
        return min([one for one in (concurrency, of_endpoint) if one is not None], default=None)

    def _gates_of(self, model_id: str, info: ModelInfo) -> tuple[Gate, ...]:
        """Return the gates of a model, shared by all roles and runs: that of its provider, if any, and its pace."""
        if info.local:
            return ()
        endpoint = self._settings.endpoints.get(model_id)
        server, own = model_id, Ceilings()
        if endpoint is not None:
            server = f"{endpoint.api_base} {endpoint.model} {endpoint.key_env}"
            own = Ceilings(rpm=endpoint.rpm, tpm=endpoint.tpm, concurrency=endpoint.concurrency)
        for layer in self._settings.ceilings:
            own = own.under(layer.of_model(model_id))
        if server not in self._paces:
            self._paces[server] = Pace(
                model_id, **{"concurrency": _CONCURRENCY, **own.ceilings()}, rates=self._rates_of(server)
            )
        pace, shared = self._paces[server], self._gate_of(info.provider, model_id)
        return (pace,) if shared is None else (shared, pace)

    def _gate_of(self, provider: str, model_id: str) -> Gate | None:
        """Return the gate of all models of a provider, if it has ceilings of its own."""
        layers = [layer.models[provider] for layer in self._settings.ceilings if provider in layer.models]
        if not layers or provider == model_id:
            return None
        if provider not in self._providers:
            lowest = reduce(Ceilings.under, layers)
            self._providers[provider] = Gate(**lowest.ceilings(), rates=self._rates_of(provider))
        return self._providers[provider]

    def _rates_of(self, of: str) -> Rates | None:
        """Return the way to book the rates of a server or provider for all processes, if these share them."""
        accounts = self._accounts
        return None if accounts is None else lambda unit, seconds: accounts.book(f"{unit} {of}", seconds)


def _out(info: ModelInfo) -> Member:
    """Return a model that a drill takes away: its calls fail at once, and none is sent."""
    error = ModelConnectionError(f"{info.id!r} is out of reach in this drill", model=info.id, sent=False)
    gone = Unreachable(info, error)
    return Member(gone, gone, Breaker(info.id))


def _nobody() -> Member:
    """Return the member of a role that is `none`: it is never called."""
    info = ModelInfo(id=NO_MODEL, provider=NO_MODEL, price=Price(input=Decimal(0), output=Decimal(0)), local=True)
    unplayed = Unreachable(info, UsageError("a role that is `none` has no model to call"))
    return Member(unplayed, unplayed, Breaker(NO_MODEL))


def _key(info: ModelInfo) -> str | None:
    """Return the key of a provider if its variable holds white space around it; else litellm reads it itself.

    Raises UsageError for a key that no header can hold.
    """
    keys = {name: secret(name) for name in info.keys}
    padded = [name for name in keys if is_padded(name)]
    if padded and len(keys) > 1:
        raise UsageError(f"{padded[0]} has white space around its value: set it again without")
    return keys[padded[0]] if padded else None


def _thinks(info: ModelInfo) -> bool | None:
    """Return None for a provider that serves any model, whose replies may begin with thoughts."""
    return None if info.provider in _OPEN_SERVERS else False


class CallRecorder:
    """Journal and caches of one run. The user's cache `mode` overrides that of stages and pipeline.

    Without a store, the mode "shared" acts as "run", and `shares` is False. `hear` receives every request and reply.
    """

    def __init__(
        self,
        journal: NullJournal | None = None,
        shared: ReplyCache | None = None,
        *,
        mode: CacheMode | None = None,
        sample: int = 0,
        hear: Hear | None = None,
    ) -> None:
        self.journal = journal or NullJournal()
        self._hear = hear
        self.shares = shared is not None
        self._mode = mode
        self._sample = sample
        run = RunCache()
        self._caches: dict[CacheMode, ReplyCache] = {"run": run, "shared": shared or run}

    def around(self, model: Model, role: str, mode: CacheMode | None) -> Model:
        """Return the model of a role, with journal and cache around it."""
        cache = self._caches.get(self._mode or mode or "off")
        if cache is not None:
            model = Cached(model, cache, self._sample)
        if isinstance(self.journal, Journal):
            model = Journaled(model, self.journal, role)
        return model if self._hear is None else Observed(model, self._hear)
