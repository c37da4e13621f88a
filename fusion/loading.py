"""Loader: pipelines read and checked once, and again when one of their files has changed."""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from fusion import graph
from fusion.core.errors import PipelineError
from fusion.prompts.library import Library
from fusion.prompts.template import Prompts
from fusion.record import Made
from fusion.spec import Pipeline

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
        pipeline, prompts = graph.load_checked(path, library=self.library)
        nested = graph.nested(pipeline, prompts, near=path.parent)
        made = Made(pipeline, prompts, path.parent, nested, file=path)
        return _Loaded(made, _stamps([path, *prompts.files, *_files(nested)]))

    def _checked(self, given: PipelineGiven) -> _Loaded:
        assert isinstance(given, Pipeline)
        prompts = Prompts(self.library)
        problems = graph.check(given, prompts=prompts)
        if problems:
            raise PipelineError(problems)
        nested = graph.nested(given, prompts)
        return _Loaded(Made(given, prompts, None, nested), _stamps([*prompts.files, *_files(nested)]))


def _files(nested: Mapping[str, graph.Nested]) -> Iterable[Path]:
    return (file for one in nested.values() for file in one.files)


def _stamps(files: Iterable[Path]) -> dict[Path, int]:
    """When each file was written last; 0 for one that is gone."""
    return {file: file.stat().st_mtime_ns if file.is_file() else 0 for file in files}
