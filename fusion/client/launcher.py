"""Launcher: starts runs on the private loop, and keeps them in the store if there is one."""

import asyncio
import copy
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from fusion.client.diff import differences
from fusion.client.handle import RunHandle
from fusion.client.loop import LoopThread
from fusion.core.budget import Budget
from fusion.core.events import EventBase, Sink
from fusion.core.params import CacheMode
from fusion.core.result import Result
from fusion.engine.durable import KeptRun, record_of
from fusion.engine.manifest import Record
from fusion.engine.roles import Cast
from fusion.engine.run import Origin, Run
from fusion.engine.run_spec import RunSpec
from fusion.models.gateway import Keeping
from fusion.models.wrappers.cache import ReplyCache, StoreCache
from fusion.pipeline.loader import LoadedPipeline
from fusion.store.base import Store
from fusion.store.rows import Content, RunRow

_WITHIN: Final = "replies are reused within this run only"
_NOT_SHARED: Final = f"`cache: shared` has no store: {_WITHIN}"
_NOT_ALLOWED: Final = f"`cache: shared` stores replies, which `content` forbids: {_WITHIN}"
_NO_TAGS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Watch:
    """Observer of a run: the sink of its events, and `stream` to include the deltas of the answer.

    `within` is a budget that several runs share; `tags` are those of a run that is not kept.
    """

    sink: Sink | None = None
    stream: bool = False
    within: Budget | None = None
    tags: Mapping[str, str] = field(default_factory=lambda: _NO_TAGS)


class Launcher:
    """Starts runs on one private loop. Without a `store` no run is kept."""

    def __init__(self, cast: Cast, store: Store | None, content: Content) -> None:
        self.loop = LoopThread()
        self.store = store
        self.content: Content = content
        self._cast = cast
        self._shared: ReplyCache | None = None if store is None or content != "full" else StoreCache(store)

    def with_cast(self, cast: Cast, *, kept: bool, shared: ReplyCache | None = None) -> "Launcher":
        """Return a launcher for other models on the same loop; without `kept` it has no store.

        `shared` replaces the cache of the store.
        """
        other = copy.copy(self)
        other._cast = cast
        if not kept:
            other.store = other._shared = None
        other._shared = shared or other._shared
        return other

    def keep(self, spec: RunSpec, tags: Mapping[str, str], parent: RunRow | None = None) -> KeptRun | None:
        """Add a new run to the store, if there is one."""
        if self.store is None:
            return None
        record = Record.of(spec, self._cast.own)
        kept = KeptRun.begin(self.store, _run_id(), record, content=self.content, tags=tags, parent=parent)
        if parent is not None:
            kept.say(differences(record_of(self.store, parent), record, self.store, parent.run_id))
        return kept

    def launch(self, spec: RunSpec, kept: KeptRun | None, watch: Watch, owner: object) -> RunHandle:
        """Start a run. The handle keeps `owner` alive."""
        run_id = _run_id() if kept is None else kept.run_id
        run = Run(
            run_id,
            spec,
            sink=watch.sink or _nowhere,
            stream=watch.stream,
            keeping=self._keeping(kept, spec),
            origin=self._origin(spec, Origin(seed=run_id, tags=watch.tags) if kept is None else kept.origin),
            within=watch.within,
        )
        work = self.loop.submit(self._execute(run, kept, list(spec.roles.models)))
        if kept is not None:
            work.done.add_done_callback(lambda _: kept.release())
        return RunHandle(run, work, self.loop, owner)

    def _keeping(self, kept: KeptRun | None, spec: RunSpec) -> Keeping:
        journal = None if kept is None else kept.journal
        return Keeping(journal, self._shared, mode=spec.cache, sample=spec.sample)

    def _origin(self, spec: RunSpec, origin: Origin) -> Origin:
        """Add a note to the origin if `cache: shared` has nothing to share."""
        if self._shared is None and "shared" in ({spec.cache} if spec.cache else _caches(spec.loaded)):
            return replace(origin, notes=(*origin.notes, _NOT_SHARED if self.store is None else _NOT_ALLOWED))
        return origin

    async def _execute(self, run: Run, kept: KeptRun | None, model_ids: Sequence[str]) -> Result:
        cast = self._cast
        warming = asyncio.ensure_future(cast.gateway.warm(i for i in model_ids if i not in cast.own))
        interrupted = False
        try:
            result = await run.execute()
        except asyncio.CancelledError:
            result, interrupted = run.interrupted(), True
        finally:
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)
        if kept is not None:
            await kept.end(result, interrupted=interrupted)
            kept.release()
        return result


def shut_down(launcher: Launcher, own_store: Store | None) -> None:
    """Stop all runs and release every thread, socket, process and file."""
    loop, gateway = launcher.loop, launcher._cast.gateway

    def close() -> None:
        loop.close(gateway.close)
        if own_store is not None:
            own_store.close()

    if loop.inside:  # a run of its own held the last reference
        threading.Thread(target=close, name="fusion-close").start()
    else:
        close()


def _caches(loaded: LoadedPipeline) -> set[CacheMode | None]:
    """The cache modes of a pipeline and of those that it runs."""
    modes = {getattr(stage, "cache", None) for stage in loaded.stages.values()}
    return modes | {one.pipeline.defaults.cache for one in loaded.all}


def _run_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _nowhere(event: EventBase) -> None:
    return None
