"""Loader: pipelines read, checked and kept until one of their files changes."""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusion.core.errors import PipelineError, Problem, UsageError
from fusion.core.params import CacheMode, Defaults
from fusion.core.paths import read_text
from fusion.core.yaml import MAX_BYTES, Place, Positions, read_yaml
from fusion.pipeline.bodies import Around, BodyPlace, bodies_of, body_pipeline
from fusion.pipeline.check import Inside, check, pipeline_uses
from fusion.pipeline.dataflow import Dataflow, Schemas, schemas_of, stages_within
from fusion.pipeline.spec import Pipeline, Reading, among_each_other, read
from fusion.prompts.library import Library
from fusion.prompts.template import Prompts
from fusion.stages.base import Stage
from fusion.tools.base import Toolbox

_MAX_NESTED: Final = 8
_MAX_CACHED: Final = 64
_TOO_DEEP: Final = f"pipelines within pipelines, more than {_MAX_NESTED} deep"


@dataclass(frozen=True, eq=False)
class LoadedPipeline:
    """A pipeline, read and checked, with its templates and the pipelines that its stages run.

    One object stands for one reading of its files, and keeps what follows from the pipeline alone.

    `near` is the folder in which its schemas' files are found; `file` is its own file, if it has one. `nested` maps
    the paths of stages to the pipelines that they run, bodies included. `pinned` holds the JSON Schemas of a recorded
    pipeline. `around` is that of a body.
    """

    pipeline: Pipeline
    prompts: Prompts
    near: Path | None = None
    nested: "Mapping[str, LoadedPipeline]" = field(default_factory=dict)
    pinned: Schemas | None = None
    file: Path | None = None
    around: Around | None = None
    _over: "dict[str, LoadedPipeline]" = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def schemas(self) -> Schemas:
        """The JSON Schemas that its stages declare."""
        return schemas_of(self.pipeline, near=self.near) if self.pinned is None else self.pinned

    @cached_property
    def dataflow(self) -> Dataflow:
        """The reads of its stages."""
        return Dataflow(self.pipeline, self.prompts, self.schemas, self.around)

    def over(self, defaults: Defaults) -> "LoadedPipeline":
        """Return the pipeline with these defaults beneath its own: one object, so that its reads are found once."""
        key = defaults.model_dump_json(exclude_unset=True)
        if key not in self._over:
            whole = self.pipeline.model_copy(update={"defaults": self.pipeline.defaults.over(defaults)})
            self._over[key] = with_bodies(replace(self, pipeline=whole))
        return self._over[key]

    def changed(self, stages: Mapping[str, Stage], **more: Any) -> "LoadedPipeline":
        """Return the pipeline with other stages under the same names; it keeps its templates and files.

        `more` replaces fields of the pipeline, such as its `output`.
        """
        known = among_each_other({**self.pipeline.stages, **stages})
        whole = self.pipeline.model_copy(update={"stages": known, **more})
        return with_bodies(replace(self, pipeline=whole))

    def upto(self, name: str, stage: Stage) -> "LoadedPipeline":
        """Return the pipeline of this stage and those that it reads, directly or not; its output is the stage's."""
        before, open_ones = {name}, [name]
        while open_ones:
            new = self.dataflow.wirings[open_ones.pop()].before & self.pipeline.stages.keys() - before
            before |= new
            open_ones += new
        stages = {one: stage if one == name else own for one, own in self.pipeline.stages.items() if one in before}
        nested = {path: one for path, one in self.nested.items() if path.partition("/")[0] in before}
        whole = self.pipeline.model_copy(update={"stages": stages, "output": name})
        return replace(self, pipeline=whole, nested=nested)

    @cached_property
    def answering(self) -> str | None:
        """The path of the stage that writes the answer: the one that `output` names, also in a pipeline that it runs.

        None if the output is made of several parts, or by an expression.
        """
        output = self.pipeline.output
        name, _, field = output.partition(".") if isinstance(output, str) else ("", "", "")
        stage = self.pipeline.stages.get(name)
        if stage is None or field not in ("", "text", "data"):
            return None
        if name not in self.nested or stage.inner() or stage.graph is not None:
            return name
        within = self.nested[name].answering
        return None if within is None else f"{name}/{within}"

    @cached_property
    def shows_material(self) -> bool:
        """True if a template of the pipeline, or of one that it runs, prints the material."""
        return any(one.dataflow.shows_material for one in self.all)

    @cached_property
    def reads_learned(self) -> bool:
        """True if the pipeline, or one that it runs, reads learned figures."""
        return any(one.dataflow.reads_learned for one in self.all)

    @property
    def all(self) -> "Iterator[LoadedPipeline]":
        """Itself and every pipeline that it runs, however deep."""
        yield self
        for one in self.nested.values():
            yield from one.all

    @property
    def stages(self) -> dict[str, Stage]:
        """Every stage by its path in events and receipts, those of nested pipelines included."""
        found = stages_within(self.pipeline.stages)
        for path, one in self.nested.items():
            found.update({f"{path}/{name}": stage for name, stage in one.stages.items()})
        return found

    def path_of(self, place: str) -> str:
        """Return the path of the stage at a place in events and receipts, which number the rounds of a body."""
        if place in self._paths:
            return place
        path = ""
        for part in place.split("/"):
            inner = f"{path}/{part}" if path else part
            path = inner if inner in self._paths or not part.isdigit() else path
        return path

    @cached_property
    def _paths(self) -> frozenset[str]:
        return frozenset(self.stages)

    @cached_property
    def cache_modes(self) -> frozenset[CacheMode | None]:
        """The cache modes of its stages and defaults, and of those of the pipelines that it runs."""
        modes = {getattr(stage, "cache", None) for stage in self.stages.values()}
        return frozenset(modes | {one.pipeline.defaults.cache for one in self.all})

    def place_of(self, path: str, key: str) -> str:
        """Return the place of a key of the stage at a path, for messages: with file and line if there is a file."""
        name, *inner = path.split("/")
        place: Place = ("stages", name)
        for one in inner:
            above = self.dataflow.stages["/".join(map(str, place[1::2]))]
            place = (*place, above.inner_key, one)
        where = ".".join(map(str, (*place, *key.split("."))))
        if self.file is None:
            return f"{self.pipeline.name}: {where}"
        _, _, positions = read_yaml(read_text(self.file, most=MAX_BYTES), file=str(self.file))
        line, column = positions.at((*place, *(int(part) if part.isdigit() else part for part in key.split("."))))
        return f"{self.file}:{line}:{column} {where}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it is made of: its own, templates, schemas, those of the pipelines that it runs."""
        return tuple(dict.fromkeys(file for one in self.all for file in one._own_files))

    @property
    def _own_files(self) -> Iterator[Path]:
        if self.file is not None:
            yield self.file
        yield from self.prompts.files
        for stage in stages_within(self.pipeline.stages).values():
            yield from ((self.near or Path()) / shape for _, shape in stage.schemas() if isinstance(shape, str))


def with_bodies(loaded: LoadedPipeline) -> LoadedPipeline:
    """Return a pipeline with the bodies of its stages among the pipelines that it runs, as its stages state them.

    Pipelines that stages of a body run, and recorded schemas, are those that it has already.
    """
    bodies, nested = list(bodies_of(loaded.pipeline.stages)), dict(loaded.nested)
    if not bodies:
        return loaded
    for one in bodies:
        old = nested.get(one.path)
        body = LoadedPipeline(
            body_pipeline(loaded.pipeline, one.body),
            loaded.prompts,
            loaded.near,
            {} if old is None else old.nested,
            None if old is None else old.pinned,
            around=Around(one.names(loaded.pipeline, loaded.around), loaded.dataflow.material),
        )
        nested[one.path] = with_bodies(body)
    return replace(loaded, nested=nested)


def checked(loaded: LoadedPipeline) -> LoadedPipeline:
    """Return a changed pipeline, checked anew. Raises PipelineError with every mistake."""
    problems = list(_flaws(loaded, None))
    if problems:
        raise PipelineError(sorted(problems))
    return loaded


def _flaws(loaded: LoadedPipeline, inside: Inside | None) -> Iterator[Problem]:
    """Yield the mistakes of a pipeline and of the bodies of its stages."""
    yield from check(
        loaded.pipeline,
        prompts=loaded.prompts,
        positions=Positions(),
        file=loaded.pipeline.name,
        near=loaded.near,
        nested={path: one.pipeline for path, one in loaded.nested.items()},
        inside=inside,
    )
    for one in bodies_of(loaded.pipeline.stages):
        names = frozenset() if inside is None else inside.names
        yield from _flaws(loaded.nested[one.path], _inside(one, loaded.pipeline, names, inside))


def _inside(one: BodyPlace, pipeline: Pipeline, unread: frozenset[str], outer: Inside | None) -> Inside:
    """Return where a body is checked: `unread` are stages of its pipeline that cannot be read."""
    names = one.names(pipeline, None) | unread | (outer.names if outer is not None else frozenset())
    return Inside(names, one.moved if outer is None else lambda place: outer.place(one.moved(place)))


PipelineGiven = str | Path | Pipeline | LoadedPipeline
"""A pipeline by name or path, or as an object."""


def check_text(text: str, *, library: Library, file: str, roles: Collection[str] | None = None) -> list[Problem]:
    """Return every mistake of a pipeline's text, positioned and sorted."""
    return _Reader().check(read(text, file=file), Prompts(library), _Place(file, _known(roles))).problems


def check_file(
    path: Path | str, library: Library, *, roles: Collection[str] | None = None, toolbox: Toolbox | None = None
) -> "Checked":
    """Return a pipeline file with every mistake, positioned and sorted; an unreadable file is one too."""
    try:
        return _Reader(toolbox).read(Path(path), library, _Place(roles=_known(roles)))
    except UsageError as error:
        return Checked(None, [Problem(str(path), 0, 0, "", str(error))])


def load_file(path: Path | str, library: Library) -> LoadedPipeline:
    """Read a pipeline file and those that it runs. Raises PipelineError with every mistake."""
    return _Reader().read(Path(path), library, _Place()).usable


def _known(roles: Collection[str] | None) -> frozenset[str] | None:
    return None if roles is None else frozenset(roles)


@dataclass(frozen=True)
class _Place:
    """The surroundings of a pipeline: known roles, if they are checked, and the files that run it."""

    name: str = ""
    roles: frozenset[str] | None = None
    within: tuple[Path, ...] = ()

    def of(self, path: Path) -> "_Place":
        return replace(self, name=str(path), within=(*self.within, path.resolve()))

    def inside(self, pipeline: Pipeline) -> "_Place":
        return replace(self, roles=None if self.roles is None else self.roles.union(pipeline.roles))


class Checked(NamedTuple):
    """A pipeline as far as it could be read, and its mistakes. `depth` counts the levels of pipelines within it."""

    loaded: LoadedPipeline | None
    problems: list[Problem]
    depth: int = 0

    @property
    def usable(self) -> LoadedPipeline:
        if self.problems or self.loaded is None:
            raise PipelineError(self.problems)
        return self.loaded


class _Reader:
    """Reads a pipeline with all that it runs, each file once."""

    def __init__(self, toolbox: Toolbox | None = None) -> None:
        self._toolbox = toolbox
        self._read: dict[object, Checked] = {}

    def read(self, path: Path, library: Library, place: _Place) -> Checked:
        """Read and check a file. Raises UsageError if it cannot be read."""
        key = path.resolve(), library.roots, place.roles
        if key not in self._read:
            reading = read(read_text(path, most=MAX_BYTES), file=str(path))
            self._read[key] = self.check(reading, Prompts(library.near(path.parent)), place.of(path), path)
        return self._read[key]

    def check(self, reading: Reading, prompts: Prompts, place: _Place, file: Path | None = None) -> Checked:
        """Check a pipeline with the bodies of its stages, and read those that it runs."""
        one = self._checked(reading, prompts, place, None if file is None else file.parent, None)
        if one.loaded is None or one.problems:
            return one
        return one._replace(loaded=with_bodies(replace(one.loaded, file=file)))

    def _checked(
        self, reading: Reading, prompts: Prompts, place: _Place, near: Path | None, inside: Inside | None
    ) -> Checked:
        pipeline = reading.pipeline
        if pipeline is None:
            return Checked(None, reading.problems)
        nested = {
            path: self._nested(use.pipeline, prompts.library, near, place.inside(pipeline))
            for name, stage in pipeline.stages.items()
            for path, use in pipeline_uses(name, stage)
        }
        bodies = {
            one.path: self._checked(
                reading._replace(pipeline=body_pipeline(pipeline, one.body)),
                prompts,
                place.inside(pipeline),
                near,
                _inside(one, pipeline, reading.unread, inside),
            )
            for one in bodies_of(pipeline.stages)
        }
        inner = {**{path: one for path, one in nested.items() if isinstance(one, Checked)}, **bodies}
        problems = check(
            pipeline,
            prompts=prompts,
            positions=reading.positions,
            roles=place.roles,
            file=place.name,
            near=near,
            unread=reading.unread if reading.problems else None,
            nested={path: one if isinstance(one, str) else one.usable.pipeline for path, one in nested.items()},
            toolbox=self._toolbox,
            inside=inside,
        )
        within = {path: one.loaded for path, one in inner.items() if one.loaded is not None}
        flaws = (flaw for one in bodies.values() for flaw in one.problems)
        depth = max((one.depth + (path not in bodies) for path, one in inner.items()), default=0)
        loaded = LoadedPipeline(pipeline, prompts, near, within)
        return Checked(loaded, sorted({*reading.problems, *problems, *flaws}), depth)

    def _nested(self, name: str, library: Library, near: Path | None, place: _Place) -> "Checked | str":
        """Read a pipeline that a stage names; return the reason if it cannot be run."""
        try:
            path = _nested_file(name, library, near)
            if path.resolve() in place.within:
                ring = [*place.within[place.within.index(path.resolve()) :], path]
                return f"the pipeline includes itself: {' -> '.join(file.stem for file in ring)}"
            if len(place.within) > _MAX_NESTED:
                return _TOO_DEEP
            one = self.read(path, library, place)
        except UsageError as error:
            return str(error)
        if one.problems:
            more = f", and {len(one.problems) - 1} more" if len(one.problems) > 1 else ""
            return f"{name!r} has mistakes of its own: {one.problems[0]}{more}"
        return _TOO_DEEP if len(place.within) + one.depth > _MAX_NESTED else one


def _nested_file(name: str, library: Library, near: Path | None) -> Path:
    """The file of a pipeline that a stage names, looked up beside the stage's own file first."""
    if near is not None and name.endswith((".yaml", ".yml")) and (near / name).is_file():
        return near / name
    return library.pipeline(name)


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
        if isinstance(given, LoadedPipeline):
            return given
        key: object = id(given) if isinstance(given, Pipeline) else self.library.pipeline(str(given))
        with self._lock:
            cached = self._cached.pop(key, None)
            if cached is None or cached.stamps != _stamps(cached.stamps):
                loaded = self._read(given)
                cached = _Cached(loaded, _stamps(loaded.files))
            if len(self._cached) >= _MAX_CACHED:
                self._cached.pop(next(iter(self._cached)))
            self._cached[key] = cached
            return cached.loaded

    def _read(self, given: str | Path | Pipeline) -> LoadedPipeline:
        if not isinstance(given, Pipeline):
            return load_file(self.library.pipeline(str(given)), self.library)
        return _Reader().check(Reading(given, [], Positions()), Prompts(self.library), _Place()).usable


def _stamps(files: Iterable[Path]) -> dict[Path, int]:
    """Modification times in nanoseconds; 0 for a file that no longer exists."""
    return {file: _stamp(file) for file in files}


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
