"""From a model's id to a model that can be called: its door, and the wrappers around it in their one order."""

import asyncio
from collections.abc import Iterable, Mapping

from fusion.core.config import Settings, secret
from fusion.core.errors import UsageError
from fusion.core.params import CacheMode
from fusion.models.base import Model, ModelInfo
from fusion.models.catalog import describe
from fusion.models.providers.local.local import LocalModels
from fusion.models.providers.replay import PREFIX, ReplayModel
from fusion.models.speed import Latencies
from fusion.models.wrappers.budget import Ledgered, Metered
from fusion.models.wrappers.cache import Cached, ReplyCache, RunCache
from fusion.models.wrappers.fallback import Breaker, Member
from fusion.models.wrappers.journal import Journaled
from fusion.models.wrappers.limit import Limited
from fusion.models.wrappers.retry import Retrying
from fusion.store.base import NullJournal
from fusion.store.journal import Journal

_CONCURRENCY = 500
_PATIENCE = 10.0
"""Seconds that a provider may ask to wait for, where another model could be asked at once."""


class Gateway:
    """Makes each model once and keeps it: slots and sockets are shared by all runs.

    Outside in: retrying > metered (budget) > limited (concurrency, the attempt's timeout) > the door. Whoever makes
    a call puts a Fallback around the members of its chain, and around that what keeps its replies. `models` are a
    user's own, by id; they come before every door. With `ledgered` every attempt is written down before it is made.
    """

    def __init__(
        self, settings: Settings, *, models: Mapping[str, Model] | None = None, ledgered: bool = False
    ) -> None:
        self.latencies = Latencies()
        self._metered = Ledgered if ledgered else Metered
        self._settings = settings
        self._key_names = frozenset(one.key_env for one in settings.endpoints.values() if one.key_env is not None)
        self._own = dict(models or {})
        self._local = LocalModels(settings, _local_door)
        self._made: dict[tuple[str, int | None], Member] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._breakers: dict[str, Breaker] = {}

    def add(self, model: Model) -> None:
        """Make a user's own model known under its id. Raises UsageError where another one has that id."""
        model_id = model.info.id
        if self._own.setdefault(model_id, model) is not model:
            raise UsageError(f"two models have the id {model_id!r}: give each an id of its own, as its `info.id`")

    def member(self, model_id: str, *, concurrency: int | None = None) -> Member:
        """The model, wrapped, for a chain. Raises UsageError or MissingKeyError where it can never be called."""
        key = (model_id, concurrency)
        if key not in self._made:
            door = self._door(model_id)
            slots = self._local.slots if door.info.local else self._slots_of(model_id)
            paid = self._metered(Limited(door, concurrency=concurrency or _CONCURRENCY, slots=slots))
            breaker = self._breakers.setdefault(model_id, Breaker())
            hasty, patient = Retrying(paid, patience=_PATIENCE), Retrying(paid)
            self._made[key] = Member(hasty, patient, breaker, self._at_once(door.info, concurrency))
        return self._made[key]

    async def warm(self, model_ids: Iterable[str]) -> None:
        """Load what these models need, so that the first call does not wait for it."""
        if any(model_id not in self._own and not model_id.startswith(PREFIX) for model_id in model_ids):
            from fusion.models.providers.litellm import warm

            await warm()

    async def close(self) -> None:
        """Give back every socket and process."""
        for model in self._own.values():
            await model.close()
        self._local.close()
        from fusion.models.providers.litellm import close_all

        await close_all()

    def _door(self, model_id: str) -> Model:
        if model_id in self._own:
            return self._own[model_id]
        if model_id.startswith(("local/", "local:")):
            return self._local.model(model_id)
        if model_id.startswith(PREFIX):
            return ReplayModel(model_id)
        from fusion.models.providers.litellm import LiteLLMModel

        info = describe(model_id, self._settings)
        endpoint = self._settings.endpoints.get(model_id)
        if endpoint is None:
            return LiteLLMModel(model_id, info=info, key_names=self._key_names)
        key = "none" if endpoint.key_env is None else secret(endpoint.key_env)
        return LiteLLMModel(
            f"openai/{endpoint.model}",
            info=info,
            api_base=endpoint.api_base,
            api_key=key,
            key_names=self._key_names,
        )

    def _at_once(self, info: ModelInfo, concurrency: int | None) -> int | None:
        """How many calls a model takes at once, where that is limited."""
        endpoint = self._settings.endpoints.get(info.id)
        of_endpoint = None if endpoint is None else endpoint.concurrency
        return min([one for one in (concurrency, of_endpoint) if one is not None], default=None)

    def _slots_of(self, model_id: str) -> asyncio.Semaphore | None:
        """The slots that all roles share at an endpoint that takes so many calls at once."""
        endpoint = self._settings.endpoints.get(model_id)
        if endpoint is None or endpoint.concurrency is None:
            return None
        return self._slots.setdefault(model_id, asyncio.Semaphore(endpoint.concurrency))


def _local_door(alias: str, api_base: str, info: ModelInfo) -> Model:
    from fusion.models.providers.litellm import LiteLLMModel

    return LiteLLMModel(f"openai/{alias}", info=info, api_base=api_base, api_key="none")


class Keeping:
    """Journal and caches of one run. The user's `mode` goes before those of stages and pipeline.

    Without a store `shared` is `run`: `shares` says whether it is more than that.
    """

    def __init__(
        self,
        journal: NullJournal | None = None,
        shared: ReplyCache | None = None,
        *,
        mode: CacheMode | None = None,
        sample: int = 0,
    ) -> None:
        self.journal = journal or NullJournal()
        self.shares = shared is not None
        self._mode = mode
        self._sample = sample
        run = RunCache()
        self._caches: dict[CacheMode, ReplyCache] = {"run": run, "shared": shared or run}

    def around(self, model: Model, role: str, mode: CacheMode | None) -> Model:
        """Return the model with the wrappers that cache and record its calls for this role."""
        cache = self._caches.get(self._mode or mode or "off")
        if cache is not None:
            model = Cached(model, cache, self._sample)
        return Journaled(model, self.journal, role) if isinstance(self.journal, Journal) else model
