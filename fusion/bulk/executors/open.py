"""Open an executor: here, or elsewhere by the name of what runs the rows."""

from collections.abc import Iterator
from typing import Final

from fusion.bulk.executors.base import Executor
from fusion.bulk.executors.local import LocalExecutor
from fusion.core.budget import Budget
from fusion.core.errors import UsageError
from fusion.engine.run_spec import RunSpec
from fusion.store.base import Store
from fusion.tools.declared import Declared

WORKERS: Final = "workers"
RAY: Final = "ray"


def open_executor(on: str | None, store: Store) -> Executor:
    """Return the executor of a name; that of this process for None. Raises UsageError."""
    if on is None:
        return LocalExecutor()
    if on == WORKERS:
        from fusion.bulk.executors.workers import WorkersExecutor

        return WorkersExecutor(store)
    if on == RAY or on.startswith(f"{RAY}://"):
        from fusion.bulk.executors.ray.executor import RayExecutor

        return RayExecutor(None if on == RAY else on, store)
    raise UsageError(
        f"on={on!r}: give {WORKERS!r} for the processes of `fusion worker`, {RAY!r} for a Ray cluster, or its "
        "address, ray://HOST:PORT"
    )


def check_portable(spec: RunSpec, own: frozenset[str], within: object) -> None:
    """Raise UsageError for a map that needs Python objects of this process, which others do not have."""
    for reason in _objects(spec, own, within):
        raise UsageError(f"{reason}, which other processes do not have: run the map here, without `on`")


def _objects(spec: RunSpec, own: frozenset[str], within: object) -> Iterator[str]:
    for model_id in sorted(own & spec.roles.models.keys()):
        yield f"the model {model_id!r} is a Python object"
    if isinstance(within, Budget):
        yield "`within` is a Budget of this process; the name of a [budgets.NAME] goes everywhere"
    toolbox = spec.toolbox
    for stage in spec.loaded.dataflow.stages.values():
        for _, name in stage.tools_used():
            if isinstance(toolbox, Declared) and toolbox.is_given(name):
                yield f"the tool {name!r} is a Python object"
    for path in spec.loaded.nested:
        yield from _objects(spec.within(path, spec.request, spec.inputs), own, None)
