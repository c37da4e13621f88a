"""Begin a map: its options are checked, its pass is recorded, before any call."""

import os
import secrets
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fusion import __version__
from fusion.bulk.executors.base import MAP_BUDGET, Terms
from fusion.bulk.executors.open import check_portable, open_executor
from fusion.bulk.executors.worker import Recent, Worker
from fusion.bulk.map import MapRun, MapSetup
from fusion.bulk.options import (
    Choice,
    MapOptions,
    Tolerance,
    checked_concurrency,
    checked_id,
)
from fusion.bulk.outputs import RowOutput
from fusion.bulk.planner import Pass
from fusion.bulk.sources import RowsGiven, RowSource
from fusion.bulk.sources.columns import Columns
from fusion.bulk.sources.keys import map_id_of
from fusion.client.budgets import SharedBudgets
from fusion.client.options import tags_of
from fusion.client.retention import Sweep
from fusion.core.budget import Amount, Bid, Budget, Caps, account_at, limits_of
from fusion.core.errors import InputError, RunBusyError, UsageError, close_names
from fusion.core.events import MapStarted
from fusion.core.types import Limits
from fusion.engine.durable import Recorder
from fusion.engine.manifest import Record
from fusion.engine.run_spec import RunSpec
from fusion.store.accounts import map_account, settle_dead
from fusion.store.base import RunLock, Store
from fusion.store.rows import MapPass, MapRow
from fusion.store.rows import MapStarted as MapBegun

MapInputs = RowsGiven


class MapGround(NamedTuple):
    """Ground of a map: the recorder of its runs, its spec without inputs, and the ids of the user's own models.

    `within` is the budget that the map shares, one of `budgets`.
    """

    recorder: Recorder
    spec: RunSpec
    own: frozenset[str]
    budgets: SharedBudgets
    within: Budget | None
    sweep: Sweep


def begin(ground: MapGround, source: RowSource, output: RowOutput | None, options: MapOptions) -> tuple[str, MapRun]:
    """Return the id of a map and the pass over it, which is recorded and locked. Raises UsageError."""
    store = _store_of(ground.recorder)
    tolerance = Tolerance.of(options.get("max_failed"), fail_fast=options.get("fail_fast", False))
    choice = Choice.of(options.get("limit"), options.get("sample"))
    on = options.get("on")
    if on is not None:
        check_portable(ground.spec, ground.own, options.get("within"))
    executor = open_executor(on, store)
    concurrency = checked_concurrency(options.get("concurrency"), batch=ground.spec.batch, here=executor.here)
    one = _pass_of(ground, source, options)
    lock = _locked(store, one.map_id)
    try:
        one, notes = _begun(ground, store, source, one, options)
        within = _budget(ground, store, one, options)
        if not executor.here:
            _open_account(store, one, limits_of(options.get("budget")))
    except BaseException:
        lock.release()
        raise
    sink, recent = options.get("on_event"), Recent()
    started = _started(ground, source, one, options, concurrency)
    recorder, map_sink = ground.recorder.of_map(started, sink)
    setup = MapSetup(
        one=one,
        terms=_terms(one, options),
        store=store,
        source=source,
        output=output,
        choice=choice,
        tolerance=tolerance,
        ordered=options.get("ordered", False),
        concurrency=concurrency,
        within=within,
        sink=map_sink,
        started=started,
        left=partial(ground.budgets.left_at_end, ground.within),
        sweep=ground.sweep,
        notes=(*filter(None, [source.note]), *one.columns.notes, *notes),
    )
    worker = Worker(recorder, one.map_id, ground.spec, within=within, sink=sink, recent=recent)
    return one.map_id, MapRun(setup, worker, recent, executor, lock)


def pass_ahead(ground: MapGround, source: RowSource, options: MapOptions) -> Pass:
    """Return the pass that a map would make next, without a trace in the store. Raises UsageError."""
    one, store = _pass_of(ground, source, options), ground.recorder.store
    before = None if store is None else store.map(one.map_id)
    return one if before is None else replace(one, number=before.passes + 1)


def _pass_of(ground: MapGround, source: RowSource, options: MapOptions) -> Pass:
    """Return the first pass of a map. Raises UsageError for an option that does not fit its inputs."""
    spec = ground.spec
    return Pass(
        map_id=checked_id(options.get("id")) or _id_of(spec, source, options.get("output")),
        number=1,
        spec=spec,
        shared=Record.shared(spec, ground.own).shared_fingerprint,
        tags=tags_of(options.get("tags")),
        columns=Columns.of(spec.pipeline, source, given=options.get("columns"), constants=options.get("constants")),
        key=_checked_key(options.get("key"), source),
        retry_failed=options.get("retry_failed", False),
    )


def _terms(one: Pass, options: MapOptions) -> Terms:
    within = options.get("within")
    return Terms(
        map_id=one.map_id,
        number=one.number,
        fingerprint=one.shared,
        version=__version__,
        retry_failed=one.retry_failed,
        budget=limits_of(options.get("budget")),
        within=within if isinstance(within, str) else None,
        tags=one.tags,
    )


def _store_of(recorder: Recorder) -> Store:
    if recorder.store is None:
        raise UsageError("a map needs a store, from which it goes on and is written: `Fusion(store=True)`")
    if recorder.content != "full":
        raise UsageError(
            f"a map needs its prompts and answers kept, and `content` in [store] is {recorder.content!r}: set "
            '`content = "full"`'
        )
    return recorder.store


def _checked_key(key: str | None, source: RowSource) -> str | None:
    columns = source.columns
    if key is not None and columns is not None and key not in columns and not source.columns_vary:
        raise InputError(f"{source.name!r} has no column {key!r} for --key{close_names(key, columns)}")
    return key


def _id_of(spec: RunSpec, source: RowSource, output: str | Path | None) -> str:
    """Return the id of a map from what it reads and writes; one of its own for a stream or rows from Python."""
    name = spec.pipeline.name
    if source.identity is None:
        return f"{name[:40]}-{secrets.token_hex(4)}"
    file = spec.loaded.file
    place = "-" if output is None else os.path.abspath(output)  # noqa: PTH100 - links are not followed
    return map_id_of(name, [name if file is None else str(file.absolute()), source.identity, place])


def _locked(store: Store, map_id: str) -> RunLock:
    try:
        return store.lock(map_id)
    except RunBusyError:
        raise RunBusyError(f"the map {map_id!r} is running already; wait for its end, or stop it first") from None


def _begun(
    ground: MapGround, store: Store, source: RowSource, one: Pass, options: MapOptions
) -> tuple[Pass, list[str]]:
    """Record the pass, and return it with its number, and notes on what has changed since the last one."""
    before, now, spec = store.map(one.map_id), time.time(), ground.spec
    if before is not None and before.pipeline != spec.pipeline.name:
        of = f"is of the pipeline {before.pipeline!r}, not {spec.pipeline.name!r}"
        raise UsageError(f"the map {one.map_id!r} {of}; give another id")
    if before is None:
        output = options.get("output")
        place = "" if output is None else os.path.abspath(output)  # noqa: PTH100 - links are not followed
        about = (spec.pipeline.name, spec.profile, now, one.tags)
        store.put(MapBegun(one.map_id, *about, source.identity or source.name, place))
    else:
        one = replace(one, number=before.passes + 1)
    store.put(MapPass(one.map_id, one.number, now, one.shared, Record.shared(spec, ground.own).json, None))
    store.flush()
    return one, _changes(before, one.shared)


def _changes(before: MapRow | None, fingerprint: str) -> list[str]:
    if before is None or before.fingerprint in ("", fingerprint):
        return []
    return ["the pipeline or its models changed since the last pass: rows run again, and reuse equal calls"]


def _budget(ground: MapGround, store: Store, one: Pass, options: MapOptions) -> Budget:
    """Return the budget of all rows, with what earlier passes have spent."""
    limits = limits_of(options.get("budget"))
    strict = limits is not None and limits.usd is not None
    budget = Budget(limits or Limits(), name=MAP_BUDGET, parent=ground.within, strict_usd=strict)
    if one.number > 1:
        spent = store.map_counts(one.map_id)
        budget.resume(Amount(spent.usd, spent.tokens, spent.calls), unknown_calls=spent.unknown_calls)
    return budget


def _open_account(store: Store, one: Pass, limits: Limits | None) -> None:
    """Count in the account that the rows of a map spend from elsewhere what all its passes have spent.

    While rows of an earlier pass still run, the account counts them, and stays as it is.
    """
    if limits is None:
        return
    account = account_at(map_account(one.map_id), Caps.of(limits), "store", time.time())
    settle_dead(store, account.name)
    if any(any(lease.open) for lease in store.accounts.leases(account.name)):
        return
    counts = store.map_counts(one.map_id)
    store.accounts.clear(account.name)
    spent = Amount(counts.usd, counts.tokens, counts.calls)
    store.accounts.exchange(account, f"pass {one.number} of {one.map_id}", Bid(spent, first=True, last=True))


def _started(ground: MapGround, source: RowSource, one: Pass, options: MapOptions, concurrency: int) -> MapStarted:
    spec, output = ground.spec, options.get("output")
    return MapStarted(
        run_id=one.map_id,
        pipeline=spec.pipeline.name,
        profile=spec.profile,
        source=source.name,
        output="" if output is None else str(output),
        expected=options.get("sample"),
        passes=one.number,
        concurrency=concurrency,
        roles={name: role.models[0].id for name, role in spec.roles.all.items()},
        stages={name: stage.kind for name, stage in spec.pipeline.stages.items()},
        tags=dict(one.tags),
        budgets=tuple(ground.budgets.left(ground.within)),
    )
