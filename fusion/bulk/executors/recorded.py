"""Recorded: the spec of a map from its record in the store, in a process that did not start it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fusion import __version__
from fusion.bulk.executors.base import Terms
from fusion.client.budgets import SharedBudgets
from fusion.core.errors import FusionError, UnfitError, UsageError
from fusion.core.params import NO_MODEL
from fusion.engine.durable import Recorder
from fusion.engine.manifest import Record
from fusion.engine.prepare import check_tools
from fusion.engine.roles import Cast, RoleModels, check_reachable
from fusion.engine.run_spec import RunSpec
from fusion.prompts.library import Library
from fusion.store.base import Store

_NO_INPUTS = {"inputs": {}, "request": ""}


@dataclass(frozen=True, slots=True)
class NodeParts:
    """Parts of a process that runs rows: the recorder of its runs, its prompts and models, and its named budgets."""

    recorder: Recorder
    library: Library
    cast: Cast
    budgets: SharedBudgets

    @property
    def store(self) -> Store:
        """The store of its runs. Raises UsageError for one that cannot keep rows."""
        if self.recorder.store is None:
            raise UsageError("rows of maps need a store: `Fusion(store=…)`, or --store")
        if self.recorder.content != "full":
            raise UsageError(
                f"rows of maps need their prompts and answers kept, and `content` in [store] is "
                f'{self.recorder.content!r}: set `content = "full"`'
            )
        return self.recorder.store


def recorded_spec(parts: NodeParts, terms: Terms) -> RunSpec:
    """Return the spec that the rows of a pass share, without inputs. Raises UnfitError if they cannot run here."""
    if terms.version != __version__:
        raise UnfitError(f"the map was started by Fusion {terms.version}, and this is {__version__}: use one version")
    record = Record({**_record(parts, terms), **_NO_INPUTS})
    cast = parts.cast
    try:
        spec = record.spec(parts.library, cast.gateway, cast.own, cast.toolbox)
        check_tools(spec.loaded, cast.toolbox)
        for role, model_id in _chains(spec.roles):
            if model_id not in cast.own:
                check_reachable(role, model_id, cast.settings)
            cast.gateway.member(model_id, concurrency=spec.roles.all[role].concurrency)
    except FusionError as error:
        raise UnfitError(str(error)) from error
    return spec


def _record(parts: NodeParts, terms: Terms) -> dict[str, Any]:
    for fingerprint, record in parts.store.map_records(terms.map_id):
        if fingerprint == terms.fingerprint:
            return dict(record)
    raise UnfitError(f"the store {parts.store.where} has no record of the map {terms.map_id!r}")


def _chains(roles: RoleModels) -> Iterator[tuple[str, str]]:
    """Yield the roles with the models of their chains, nested pipelines included."""
    for name, role in roles.items():
        yield from ((name, info.id) for info in role.models if info.id != NO_MODEL)
    for nested in roles.nested.values():
        yield from _chains(nested)
