"""Loader: pipelines read and checked once, and again when one of their files has changed."""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from fusion.core.errors import PipelineError
from fusion.pipeline.check import check, nested_file, read_checked
from fusion.pipeline.dataflow import Schemas, stages_within
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library
from fusion.prompts.template import Prompts


@dataclass(frozen=True, slots=True)
class Nested:
    """A pipeline that a stage runs, read and checked, with those that its own stages run by the stages' paths."""

    path: Path
    pipeline: Pipeline
    prompts: Prompts
    nested: "Mapping[str, Nested]"
    schemas: Schemas | None = None
    """The schemas that its stages declare, where they are known; else they are read from its files."""

    @property
    def files(self) -> Iterator[Path]:
        """All files that it is made of."""
        yield from (self.path, *self.prompts.files)
        for other in self.nested.values():
            yield from other.files


@dataclass(frozen=True, slots=True)
class Made:
    """A pipeline that has been checked: its templates, its own folder, and what its stages run and declare."""

    pipeline: Pipeline
    prompts: Prompts
    near: Path | None
    nested: Mapping[str, Nested]
    schemas: Schemas | None = None
    file: Path | None = None


def load_checked(
    path: Path | str, *, library: Library, roles: Collection[str] | None = None
) -> tuple[Pipeline, Prompts]:
    """A pipeline file and the prompts that it is rendered with. Raises PipelineError with every mistake of it."""
    reading, prompts, problems = read_checked(Path(path), library, roles)
    if problems or reading.pipeline is None:
        raise PipelineError(problems)
    return reading.pipeline, prompts


def nested_pipelines(pipeline: Pipeline, prompts: Prompts, *, near: Path | None = None) -> dict[str, Nested]:
    """What the stages of a checked pipeline run: other pipelines, by the stages' paths. Raises PipelineError."""
    found: dict[str, Nested] = {}
    for path, stage in stages_within(pipeline.stages).items():
        for use in stage.pipelines():
            file = nested_file(use.pipeline, prompts.library, near)
            inner, its_prompts = load_checked(file, library=prompts.library)
            found[path] = Nested(file, inner, its_prompts, nested_pipelines(inner, its_prompts, near=file.parent))
    return found


PipelineGiven = str | Path | Pipeline
"""A pipeline by name or path, or as an object."""
_MOST_LOADED: Final = 64


class _Loaded(NamedTuple):
    """A pipeline that has been checked, and the files that it was made of, each as it was then."""

    made: Made
    stamps: dict[Path, int]


class Loader:
    """Finds pipelines in a library, and keeps those that were used last. Any thread may use it."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._loaded: dict[object, _Loaded] = {}
        self._lock = threading.Lock()

    def load(self, given: PipelineGiven) -> Made:
        """A pipeline, checked. Raises PipelineError with every mistake."""
        return self._fresh(given).made

    def files(self, given: PipelineGiven) -> tuple[Path, ...]:
        """Every file that a pipeline is made of: its own, its templates, those of the pipelines that it runs."""
        return tuple(self._fresh(given).stamps)

    def _fresh(self, given: PipelineGiven) -> _Loaded:
        path = None if isinstance(given, Pipeline) else self.library.pipeline(str(given))
        key: object = id(given) if path is None else path
        with self._lock:
            loaded = self._loaded.pop(key, None)
            if loaded is None or loaded.stamps != _stamps(loaded.stamps):
                loaded = self._checked(given) if path is None else self._read(path)
            if len(self._loaded) >= _MOST_LOADED:
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[key] = loaded
            return loaded

    def _read(self, path: Path) -> _Loaded:
        pipeline, prompts = load_checked(path, library=self.library)
        nested = nested_pipelines(pipeline, prompts, near=path.parent)
        made = Made(pipeline, prompts, path.parent, nested, file=path)
        return _Loaded(made, _stamps([path, *prompts.files, *_files(nested)]))

    def _checked(self, given: PipelineGiven) -> _Loaded:
        assert isinstance(given, Pipeline)
        prompts = Prompts(self.library)
        problems = check(given, prompts=prompts)
        if problems:
            raise PipelineError(problems)
        nested = nested_pipelines(given, prompts)
        return _Loaded(Made(given, prompts, None, nested), _stamps([*prompts.files, *_files(nested)]))


def _files(nested: Mapping[str, Nested]) -> Iterable[Path]:
    return (file for one in nested.values() for file in one.files)


def _stamps(files: Iterable[Path]) -> dict[Path, int]:
    """When each file was written last; 0 for one that is gone."""
    return {file: file.stat().st_mtime_ns if file.is_file() else 0 for file in files}
