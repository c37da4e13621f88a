"""Launcher: starts runs on the private loop."""

import asyncio
import copy
import threading
from collections.abc import Collection, Mapping

from fusion.client.budgets import SharedBudgets
from fusion.client.handle import RunHandle
from fusion.client.loop import LoopThread, Work
from fusion.client.retention import Sweep
from fusion.core.budget import Budget
from fusion.core.events import EventBase, Sink
from fusion.core.result import Result
from fusion.engine.answering.effects import ignored_in
from fusion.engine.context import AskPerson
from fusion.engine.durable import Recorder, Session, record_of
from fusion.engine.manifest import Record
from fusion.engine.roles import Cast
from fusion.engine.run import Run
from fusion.engine.run_spec import RunSpec
from fusion.models.wrappers.cache import ReplyCache
from fusion.store.base import Store
from fusion.store.rows import RunRow


class Launcher:
    """Starts runs on one private loop, and records them with its recorder.

    `retention` is the number of days after which the end of a run removes older ones.
    """

    def __init__(self, cast: Cast, recorder: Recorder, *, retention: int | None = None) -> None:
        self.loop = LoopThread()
        self.budgets = SharedBudgets(cast.settings, self.loop, recorder.store)
        self.recorder = recorder
        self._cast = cast
        self._retention = retention

    def with_cast(self, cast: Cast, *, kept: bool, shared: ReplyCache | None = None) -> "Launcher":
        """Return a launcher for other models on the same loop; without `kept` its runs are not stored.

        `shared` replaces the cache of the store.
        """
        other = copy.copy(self)
        other._cast = cast
        other.recorder = self.recorder.changed(kept=kept, shared=shared)
        return other

    def warm(self) -> Work[None]:
        """Load the libraries of the models of every role that has one."""
        cast = self._cast
        return self.loop.submit(cast.gateway.warm([one for one in cast.expected if one not in cast.own]))

    def begin(
        self,
        spec: RunSpec,
        tags: Mapping[str, str],
        parent: RunRow | None = None,
        *,
        continues: bool = False,
        person: AskPerson | None = None,
    ) -> Session:
        """Begin a run in the store, if there is one; as a branch of `parent`, note how the two differ.

        One that `continues` its parent fails again where that one failed. Raises UsageError for a run that could not
        wait for a person, unless `person` asks one.
        """
        if person is None:
            self.recorder.check_people(spec)
        session = self.recorder.begin(spec, self._cast.own, tags, parent, continues=continues)
        if parent is not None and continues:
            session.note([f"goes on from run {parent.run_id}, whose finished stages are answered from the store"])
        elif parent is not None and (store := self.recorder.store) is not None:
            from fusion.client.history.run_diff import differences  # a new run needs none of it

            record = Record.of(spec, self._cast.own)
            session.note(differences(record_of(store, parent), record, store, parent.run_id))
        return session

    def launch(
        self,
        spec: RunSpec,
        session: Session,
        owner: object,
        *,
        on_event: Sink | None = None,
        stream: bool = False,
        within: Budget | None = None,
        person: AskPerson | None = None,
    ) -> RunHandle:
        """Start a run; with `stream`, its events include the deltas of the answer. The handle keeps `owner` alive.

        `within` is a budget that the run shares with others; `person` asks the person who is there.
        """
        sink = on_event or _ignore
        session.tell_left(self.budgets.left(within))
        run = self.recorder.run(spec, session, sink=sink, stream=stream, within=within, person=person)
        sweep, ahead = self.sweep(), _ahead(spec, session) - self._cast.own
        work = self.loop.submit(self._execute(run, session, ahead, sweep), run.interrupted)
        work.done.add_done_callback(lambda _: session.release())
        return RunHandle(
            run.run_id,
            run.outcome,
            work.done,
            stop=work.cancel,
            loop=self.loop,
            owner=owner,
            sweep=sweep,
            ignored=ignored_in(spec.notes),
        )

    def sweep(self) -> Sweep:
        """Return the removal of old runs at the end of one."""
        return Sweep(self.recorder.store, self._retention)

    async def _execute(self, run: Run, session: Session, model_ids: Collection[str], sweep: Sweep) -> Result:
        warming = [asyncio.ensure_future(self._cast.gateway.warm(model_ids))] if model_ids else []
        interrupted = False
        try:
            result = await run.execute()
        except asyncio.CancelledError:
            result, interrupted = run.interrupted(), True
        finally:
            for one in warming:
                one.cancel()
                await asyncio.gather(one, return_exceptions=True)
        await session.end(result, interrupted=interrupted)
        await sweep.apply()
        return result


def shut_down(launcher: Launcher, own_store: Store | None) -> None:
    """Stop all runs and release every thread, socket, process and file."""
    loop, cast = launcher.loop, launcher._cast

    async def last() -> None:
        await launcher.budgets.close()
        await cast.toolbox.close()
        await cast.gateway.close()

    def close() -> None:
        loop.close(last)
        if own_store is not None:
            own_store.close()

    if loop.inside:  # a run of its own held the last reference
        threading.Thread(target=close, name="fusion-close").start()
    else:
        close()


def _ahead(spec: RunSpec, session: Session) -> frozenset[str]:
    """Return the models to load the libraries of while the first stages work: the first one of each role.

    Where the store may answer, none: a library is then loaded by the first call that needs it, as for fallbacks.
    """
    origin = session.origin
    if origin.session > 1 or origin.parent is not None or "shared" in (spec.cache, spec.pipeline.defaults.cache):
        return frozenset()
    return spec.roles.first


def _ignore(event: EventBase) -> None:
    return None
