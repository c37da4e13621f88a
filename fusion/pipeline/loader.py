"""Loader: pipelines read and checked once, and again when one of their files has changed."""

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from fusion.core.errors import PipelineError
from fusion.pipeline.check import check, nested_file, read_checked
from fusion.pipeline.dataflow import Schemas, stages_within
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library
from fusion.prompts.template import Prompts
from fusion.stages.base import Stage


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A pipeline, read and checked, with its templates and the pipelines that its stages run.

    `near` is the folder in which its schemas' files are found; `file` is its own file, if it has one. `nested` maps
    the paths of stages to the pipelines that they run. `schemas` holds the JSON Schemas of its stages where they are
    known already; otherwise they are read from their files.
    """

    pipeline: Pipeline
    prompts: Prompts
    near: Path | None = None
    nested: "Mapping[str, LoadedPipeline]" = field(default_factory=dict)
    schemas: Schemas | None = None
    file: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it is made of: its own, its templates, those of the pipelines that it runs."""
        own = () if self.file is None else (self.file,)
        inner = (file for one in self.nested.values() for file in one.files)
        return (*own, *self.prompts.files, *inner)

    @property
    def stages(self) -> dict[str, Stage]:
        """Every stage by its path in events and receipts, those of nested pipelines included."""
        found = stages_within(self.pipeline.stages)
        for path, one in self.nested.items():
            found.update({f"{path}/{name}": stage for name, stage in one.stages.items()})
        return found


def load_checked(
    path: Path | str, *, library: Library, roles: Collection[str] | None = None
) -> tuple[Pipeline, Prompts]:
    """A pipeline file and the prompts that it is rendered with. Raises PipelineError with every mistake of it."""
    reading, prompts, problems = read_checked(Path(path), library, roles)
    if problems or reading.pipeline is None:
        raise PipelineError(problems)
    return reading.pipeline, prompts


def nested_pipelines(pipeline: Pipeline, prompts: Prompts, *, near: Path | None = None) -> dict[str, LoadedPipeline]:
    """What the stages of a checked pipeline run: other pipelines, by the stages' paths. Raises PipelineError."""
    found: dict[str, LoadedPipeline] = {}
    for path, stage in stages_within(pipeline.stages).items():
        for use in stage.pipelines():
            file = nested_file(use.pipeline, prompts.library, near)
            found[path] = _read(file, prompts.library)
    return found


def _read(file: Path, library: Library) -> LoadedPipeline:
    pipeline, prompts = load_checked(file, library=library)
    nested = nested_pipelines(pipeline, prompts, near=file.parent)
    return LoadedPipeline(pipeline, prompts, file.parent, nested, file=file)


PipelineGiven = str | Path | Pipeline
"""A pipeline by name or path, or as an object."""
_MOST_LOADED: Final = 64


class _Cached(NamedTuple):
    """A loaded pipeline and the modification times of its files when they were read."""

    loaded: LoadedPipeline
    stamps: dict[Path, int]


class Loader:
    """Loads pipelines from a library and keeps the ones used last. Any thread may use it."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._cached: dict[object, _Cached] = {}
        self._lock = threading.Lock()

    def load(self, given: PipelineGiven) -> LoadedPipeline:
        """Return a pipeline, checked. Raises PipelineError with every mistake."""
        key: object = id(given) if isinstance(given, Pipeline) else self.library.pipeline(str(given))
        with self._lock:
            cached = self._cached.pop(key, None)
            if cached is None or cached.stamps != _stamps(cached.stamps):
                loaded = self._read(given)
                cached = _Cached(loaded, _stamps(loaded.files))
            if len(self._cached) >= _MOST_LOADED:
                self._cached.pop(next(iter(self._cached)))
            self._cached[key] = cached
            return cached.loaded

    def _read(self, given: PipelineGiven) -> LoadedPipeline:
        if not isinstance(given, Pipeline):
            return _read(self.library.pipeline(str(given)), self.library)
        prompts = Prompts(self.library)
        if problems := check(given, prompts=prompts):
            raise PipelineError(problems)
        return LoadedPipeline(given, prompts, nested=nested_pipelines(given, prompts))


def _stamps(files: Iterable[Path]) -> dict[Path, int]:
    """Modification times in nanoseconds; 0 for a file that no longer exists."""
    return {file: file.stat().st_mtime_ns if file.is_file() else 0 for file in files}
