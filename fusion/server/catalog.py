"""Catalog: pipelines that are served, by the names that clients ask for."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fusion.client.client import Fusion, loaded
from fusion.core.config import ServerTable
from fusion.core.errors import FusionError, close_names
from fusion.core.log import LOG
from fusion.core.types import Limits
from fusion.pipeline.loader import LoadedPipeline, PipelineGiven
from fusion.prompts.library import Library
from fusion.server.base import RefusedError

PREFIX: Final = "fusion/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPipeline:
    """A pipeline under the name of a model. `callers` may use it, all if empty.

    `budget` limits each request. `limits` are those of the settings for every run, over which it wins.
    """

    name: str
    pipeline: PipelineGiven
    budget: Limits | None = None
    limits: Limits = field(default_factory=Limits)
    callers: tuple[str, ...] = ()

    def allows(self, caller: str | None) -> bool:
        """Return True if this caller may use it."""
        return not self.callers or caller in self.callers


class Catalog:
    """Pipelines that are served: those of `given`, else those of the settings, else all that are found by name.

    A pipeline is found with or without `fusion/` before its name.
    """

    def __init__(self, fusion: Fusion, table: ServerTable, given: Mapping[str, PipelineGiven] | None = None) -> None:
        self._fusion = fusion
        self._budget = table.budget
        self._limits = fusion.settings.limits
        self._named = {one.name: one for one in _named(given, table, self._limits)}
        self._library = self._read()

    def find(self, model: str, caller: str | None) -> ServedPipeline:
        """Return the pipeline that a client asks for. Raises RefusedError with status 404."""
        found = self._find(model)
        if found is None or not found.allows(caller):
            near = close_names(model, (one.name for one in self._all() if one.allows(caller)))
            raise RefusedError(
                f"no model {model!r}{near}", status=404, kind="not_found_error", param="model", code="model_not_found"
            )
        return found

    def named(self, caller: str | None) -> tuple[ServedPipeline, ...]:
        """Return the pipelines of a caller in order, also those that cannot be loaded."""
        self._library = self._read()
        return tuple(one for one in self._all() if one.allows(caller))

    def list(self, caller: str | None) -> list[tuple[ServedPipeline, LoadedPipeline]]:
        """Return the pipelines of a caller that can be loaded, in order; the log names the others."""
        found = []
        for one in self.named(caller):
            try:
                found.append((one, self.load(one)))
            except FusionError as error:
                LOG.warning("pipeline %r is not served: %s", one.name, error)
        return found

    def check(self) -> tuple[str, ...]:
        """Return the names of all pipelines that are served. Raises UsageError for a named one that is broken."""
        if not self._named:
            return tuple(one.name for one, _ in self.list(None))
        for one in self._named.values():
            self.load(one)
        return tuple(self._named)

    def load(self, one: ServedPipeline) -> LoadedPipeline:
        """Return a pipeline with all that it runs. Raises PipelineError or another UsageError."""
        return loaded(self._fusion, one.pipeline)

    def _find(self, model: str) -> ServedPipeline | None:
        bare = model.removeprefix(PREFIX)
        if self._named:
            return self._named.get(model) or self._named.get(bare) or self._named.get(f"{PREFIX}{bare}")
        if bare not in self._library:
            self._library = self._read()  # a file may be new
        return self._served(bare) if bare in self._library else None

    def _all(self) -> Iterable[ServedPipeline]:
        return self._named.values() if self._named else map(self._served, self._library)

    def _served(self, name: str) -> ServedPipeline:
        path = self._library[name]
        return ServedPipeline(name=f"{PREFIX}{name}", pipeline=path, budget=self._budget, limits=self._limits)

    def _read(self) -> Mapping[str, Path]:
        return Library.standard(user=self._fusion.settings.library_dir).pipelines


def without_deadline(pipeline: LoadedPipeline) -> str | None:
    """Return the first stage that asks a person without a `timeout`: no API can wait so long; None without one."""
    stages = pipeline.stages.items()
    return next((path for path, stage in stages if stage.asks_person and stage.timeout is None), None)


def check_deadlines(pipeline: LoadedPipeline, name: str) -> None:
    """Raise RefusedError for a pipeline that an API cannot serve, since it asks a person without a deadline."""
    path = without_deadline(pipeline)
    if path is not None:
        raise RefusedError(
            f"{name!r} asks a person at {path!r}, and waits without end: give the gate `timeout` and `default`, or "
            "start the run on the page",
            param="model",
            code="gate_without_timeout",
        )


def _named(given: Mapping[str, PipelineGiven] | None, table: ServerTable, limits: Limits) -> Iterator[ServedPipeline]:
    """Yield the pipelines with a name of their own; none if all are served."""
    if given:
        for name, pipeline in given.items():
            yield ServedPipeline(name=name, pipeline=pipeline, budget=table.budget, limits=limits)
        return
    for name, one in table.pipelines.items():
        yield ServedPipeline(
            name=name,
            pipeline=one.pipeline,
            budget=one.budget or table.budget,
            limits=limits,
            callers=one.callers,
        )
