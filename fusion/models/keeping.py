"""Keeping: what is put around the models of one run, so that no reply is paid for twice."""

from fusion.core.params import CacheMode
from fusion.models.base import Model
from fusion.models.cached import Cached, ReplyCache, RunCache
from fusion.models.journaled import Journaled
from fusion.store.journal import Journal


class Keeping:
    """The journal and the caches of one run. `mode` of the user's goes before what stages and pipeline say.

    Without a store `shared` is `run`: `shares` says whether it is more than that.
    """

    def __init__(
        self,
        journal: Journal | None = None,
        shared: ReplyCache | None = None,
        *,
        mode: CacheMode | None = None,
        sample: int = 0,
    ) -> None:
        self.journal = journal
        self.shares = shared is not None
        self._mode = mode
        self._sample = sample
        run = RunCache()
        self._caches: dict[CacheMode, ReplyCache] = {"run": run, "shared": shared or run}

    def around(self, model: Model, role: str, mode: CacheMode | None) -> Model:
        """The model, asked by this role, with what keeps its calls."""
        cache = self._caches.get(self._mode or mode or "off")
        if cache is not None:
            model = Cached(model, cache, self._sample)
        return model if self.journal is None else Journaled(model, self.journal, role)
