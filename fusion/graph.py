"""The graph of a pipeline: what depends on what, and what is wrong with it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path as File
from typing import NamedTuple

from fusion.core.errors import PipelineError, Problem, PromptError, UsageError, close_names
from fusion.core.paths import read_text
from fusion.core.schema import check_shape
from fusion.core.types import JsonSchema
from fusion.core.yaml import MAX_BYTES, Place, Positions
from fusion.prompts.library import Library
from fusion.prompts.template import Path, Prompts
from fusion.spec import Pipeline, Reading, read
from fusion.stages.base import PipelineUse, Stage

_ALWAYS = frozenset({"inputs", "request"})
"""What every template and expression may read."""

Schemas = Mapping[str, Mapping[str, JsonSchema]]
"""JSON Schemas by the paths of stages and the keys that declare them."""

Broken = Callable[[str, str], None]
"""Takes the key of a template or expression that cannot be compiled, and why."""


MAX_NESTED = 8
"""How deep pipelines may stand within pipelines."""


@dataclass(frozen=True, slots=True)
class Nested:
    """A pipeline that a stage runs, read and checked, with those that its own stages run by the stages' paths."""

    path: File
    pipeline: Pipeline
    prompts: Prompts
    nested: "Mapping[str, Nested]"
    schemas: Schemas | None = None
    """The schemas that its stages declare, where they are known; else they are read from its files."""

    @property
    def files(self) -> Iterator[File]:
        """All files that it is made of."""
        yield from (self.path, *self.prompts.files)
        for other in self.nested.values():
            yield from other.files


@dataclass(frozen=True, slots=True)
class _Use:
    """A template or an expression of a stage: what it reads, and what the stage itself offers to it."""

    key: str
    source: str
    paths: frozenset[Path]
    offers: frozenset[str] = frozenset()
    flows: bool = False
    listed: bool = False
    """True for an expression of items, whether it flows or not."""


# What depends on what.


class Edge(NamedTuple):
    """A field of one stage that another one reads; one that `flows` is followed item by item."""

    source: str
    target: str
    field: str
    flows: bool


def edges(pipeline: Pipeline, prompts: Prompts) -> list[Edge]:
    """Every field that a stage reads or waits for, by its reader. Raises PromptError."""
    found: dict[tuple[str, str, str], bool] = {}
    for name, stage in pipeline.stages.items():
        uses = list(_uses(stage, prompts, _raise))
        for source, field in sorted(_fields(pipeline, uses, stage.needs)):
            found[source, name, field] = False
        for source, field in _fields(pipeline, [use for use in uses if use.flows]):
            found[source, name, field] = _is_feed(pipeline, source, field)
    return [Edge(*read, flows) for read, flows in found.items()]


def output_stages(pipeline: Pipeline, prompts: Prompts) -> dict[str, list[str]]:
    """The stages that each expression of the output reads."""
    found = {}
    for name, source in pipeline.outputs.items():
        use = _Use("output", source, prompts.expression(source).paths)
        found[name] = list(dict.fromkeys(stage for stage, _ in sorted(_fields(pipeline, [use]))))
    return found


def _is_feed(pipeline: Pipeline, stage: str, field: str) -> bool:
    return any(output.feed and output.name == field for output in pipeline.stages[stage].outputs)


def dependencies(pipeline: Pipeline, prompts: Prompts) -> dict[str, set[tuple[str, str]]]:
    """For each stage: the (stage, field) pairs that it reads or waits for. Raises PromptError."""
    return {
        name: set(_fields(pipeline, _uses(stage, prompts, _raise), stage.needs))
        for name, stage in pipeline.stages.items()
    }


def order(pipeline: Pipeline, prompts: Prompts) -> tuple[str, ...]:
    """The stages, each behind those that it depends on, else as they stand in the file. Raises PipelineError."""
    edges = {name: {read for read, _ in reads} for name, reads in dependencies(pipeline, prompts).items()}
    if cycles := _cycles(edges):
        raise PipelineError([Problem(pipeline.name, 0, 0, f"stages.{c[0]}", _cycle_words(c)) for c in cycles])
    return tuple(TopologicalSorter(edges).static_order())


def _uses(stage: Stage, prompts: Prompts, broken: Broken) -> Iterator[_Use]:
    """Every template and expression of a stage that can be compiled."""
    for use in stage.expressions():
        try:
            expression = prompts.expression(use.source)
        except PromptError as error:
            broken(use.key, str(error))
        else:
            flows = use.flows and expression.bare
            yield _Use(use.key, use.source, expression.paths, use.offers, flows, use.flows)
    for prompt in stage.prompts():
        try:
            yield _Use(prompt.key, prompt.template, prompts.template(prompt.template).paths, prompt.offers)
        except PromptError as error:
            broken(prompt.key, str(error))


def _fields(pipeline: Pipeline, uses: Iterable[_Use], needs: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    for use in uses:
        for path in use.paths:
            if path[0] in pipeline.stages and path[0] not in use.offers:
                yield path[0], _field(pipeline, path)
    for name in needs:
        if name in pipeline.stages:
            yield name, _field(pipeline, (name,))


def _field(pipeline: Pipeline, path: Path) -> str:
    """The field that a path into a stage reads; a bare name means the first."""
    return path[1] if len(path) > 1 else pipeline.stages[path[0]].outputs[0].name


def _raise(key: str, message: str) -> None:
    raise PromptError(f"{key}: {message}")


def _cycles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Every cycle that is left when those found before it are cut; each begins at its first stage in the file."""
    left = {name: set(reads) for name, reads in edges.items()}
    names = list(edges)
    cycles: list[list[str]] = []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            ring = error.args[1][:-1]
            start = min(range(len(ring)), key=lambda at: names.index(ring[at]))
            ring = ring[start:] + ring[:start]
            cycles.append([*ring, ring[0]])
            left[ring[0]].discard(ring[-1])
        else:
            return cycles


def _cycle_words(cycle: list[str]) -> str:
    if len(cycle) == 2:
        return "the stage reads itself"
    return f"a cycle: {' -> '.join(cycle)}; each waits for the one before it"


# What is wrong.


def check(
    pipeline: Pipeline,
    *,
    prompts: Prompts,
    positions: Positions | None = None,
    roles: Collection[str] | None = None,
    file: str = "",
    near: File | None = None,
    unread: Collection[str] | None = None,
    within: tuple[File, ...] = (),
) -> list[Problem]:
    """Every mistake of a pipeline that its form does not show, in the order of the file.

    With `roles`, those of the profile, a role that is neither there nor in the pipeline is a mistake. Files of
    schemas are looked up in `near`. `unread` is given for the part that could be read of a file with mistakes: it
    names the stages that could not. Nothing is said of those, nor of stages that nobody reads. `within` are the files
    of the pipeline and of those that it is run by.
    """
    checking = _Checking(pipeline, prompts, roles, near, unread, within)
    checking.all()
    positions = positions or Positions()
    problems = []
    for place, of_key, message in dict.fromkeys(checking.found):
        mark = positions.key(place) if of_key else positions.at(place)
        problems.append(Problem(file or pipeline.name, *mark, ".".join(map(str, place)), message))
    return sorted(problems)


class _Checking:
    """One check of one pipeline: what is known, and what was found wrong."""

    def __init__(
        self,
        pipeline: Pipeline,
        prompts: Prompts,
        roles: Collection[str] | None,
        near: File | None,
        unread: Collection[str] | None,
        within: tuple[File, ...],
    ) -> None:
        self.found: list[tuple[Place, bool, str]] = []
        self._pipeline = pipeline
        self._prompts = prompts
        self._roles = roles
        self._near = near
        self._within = within
        self._unread = frozenset(unread or ())
        self._stages = {*pipeline.stages, *self._unread}
        self._edges: dict[str, set[str]] = {}
        self._read: set[str] = set()
        self._whole = unread is None

    def all(self) -> None:
        for name, stage in self._pipeline.stages.items():
            self._stage(name, stage)
        for name, source in self._pipeline.outputs.items():
            self._output(name, source)
        for cycle in _cycles(self._edges):
            self._say(("stages", cycle[0]), _cycle_words(cycle), of_key=True)
        self._check_readers()
        self._check_stdin()

    def _say(self, place: Place, message: str, *, of_key: bool = False) -> None:
        self.found.append((place, of_key, message))

    def _stage(self, name: str, stage: Stage) -> None:
        def broken(key: str, message: str) -> None:
            self._whole = False
            self._say((*here, *_keys(key)), message)

        here = ("stages", name)
        uses = list(_uses(stage, self._prompts, broken))
        for use in uses:
            self._use((*here, *_keys(use.key)), use, name)
        self._check_one_way(here, [use for use in uses if not use.flows and use.key != "when"])
        self._check_one_way(here, [use for use in uses if use.key == "when"])
        self._edges[name] = {read for read, _ in _fields(self._pipeline, uses, stage.needs)}
        self._read |= self._edges[name] - {name}
        self._check_needs(here, stage)
        self._check_roles(here, stage)
        for included in _pipeline_uses(stage):
            for key, message in self._nested_flaws(included):
                self._say((*here, *_keys(key)), message)
        if stage.outputs[0].feed and stage.default is not None and not isinstance(stage.default, (list, tuple)):
            self._say((*here, "default"), f"readers of {name!r} get a list of items; give a list, such as []")
        for key, shape in stage.schemas():
            for flaw in check_shape(shape, near=self._near):
                self._say((*here, *_keys(key), *flaw.path), flaw.message)

    def _output(self, name: str, source: str) -> None:
        place = ("output", name) if name else ("output",)
        try:
            use = _Use("output", source, self._prompts.expression(source).paths)
        except PromptError as error:
            self._whole = False
            self._say(place, str(error))
            return
        self._use(place, use, "")
        self._check_one_way(place, [use], exact=True)
        self._read |= {read for read, _ in _fields(self._pipeline, [use])}

    # One template or expression.

    def _use(self, place: Place, use: _Use, stage: str) -> None:
        for path in sorted(use.paths):
            message = self._path(path, use)
            if message:
                self._say(place, message)
        for name in sorted(use.offers & self._stages):
            words = f"rename the stage: {stage}.{use.key} has a variable {name!r} of its own"
            self._say(("stages", name), words, of_key=True)
        if use.flows:
            self._check_listed(place, use)

    def _path(self, path: Path, use: _Use) -> str:
        """What is wrong with a path that is read; empty if nothing is."""
        name = path[0]
        if name in use.offers or name in self._unread or name == "request":
            return ""
        if name == "inputs":
            known = self._pipeline.inputs
            return "" if len(path) == 1 or path[1] in known else _no("input", path[1], known, "the pipeline has none")
        if name in self._pipeline.stages:
            return _field_flaw(self._pipeline.stages[name], path)
        if name in self._pipeline.inputs:
            return f"no stage or variable {name!r}; the input is read as inputs.{name}"
        if use.listed or use.key == "output":
            return _no("stage", name, self._stages)
        return _no("stage or variable", name, {*self._stages, *use.offers, *_ALWAYS})

    def _check_listed(self, place: Place, use: _Use) -> None:
        path = next(iter(use.paths), ())
        if path in ((), ("inputs",), ("request",)):
            self._say(place, f"{use.source!r} is not a list; name a list, such as a stage's items")
        if not path or path[0] not in self._pipeline.stages or len(path) > 2:
            return
        first, *others = self._pipeline.stages[path[0]].outputs
        if not first.feed and path[1:] in ((), (first.name,)):
            lists = [f"{path[0]}.{output.name}" for output in others]
            near = f", such as {', '.join(lists)}, if it holds one" if lists else ""
            self._say(place, f"{'.'.join(path)!r} is one value, not a list; name a list{near}")

    def _check_one_way(self, place: Place, uses: list[_Use], *, exact: bool = False) -> None:
        """A stage is read by its bare name or by its fields: both at once would give the name two meanings."""
        named = {path[0]: path for use in uses for path in sorted(use.paths, reverse=True) if len(path) > 1}
        for use in uses:
            for path in use.paths:
                name = path[0]
                if len(path) == 1 and name in named and name in self._pipeline.stages and name not in use.offers:
                    field = _field(self._pipeline, path)
                    at = place if exact else (*place, *_keys(use.key))
                    other = ".".join(named[name][:2])
                    self._say(at, f"{name!r} is read both bare and as {other!r}; say which field: {name}.{field}")

    # The rest of a stage.

    def _check_needs(self, here: Place, stage: Stage) -> None:
        for at, name in enumerate(stage.needs):
            if name not in self._stages:
                self._say((*here, "needs", at), _no("stage", name, self._stages))

    def _check_roles(self, here: Place, stage: Stage) -> None:
        if self._roles is None:
            return
        known = {*self._roles, *self._pipeline.roles}
        for key, role in stage.roles():
            if role not in known:
                self._say((*here, *_keys(key)), _no("role", role, known))

    def _nested_flaws(self, use: PipelineUse) -> Iterator[tuple[str, str]]:
        """(key, message) of what is wrong with a pipeline that is run by a stage."""
        try:
            path = _nested_file(use.pipeline, self._prompts.library, self._near)
            if path.resolve() in self._within:
                ring = [*self._within[self._within.index(path.resolve()) :], path]
                yield use.key, f"the pipeline includes itself: {' -> '.join(file.stem for file in ring)}"
                return
            if len(self._within) > MAX_NESTED:
                yield use.key, f"pipelines within pipelines, more than {MAX_NESTED} deep"
                return
            known = None if self._roles is None else {*self._roles, *self._pipeline.roles}
            reading, _, problems = _load(path, self._prompts.library, known, self._within)
        except UsageError as error:
            yield use.key, str(error)
            return
        if problems or reading.pipeline is None:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            yield use.key, f"{use.pipeline!r} has mistakes of its own: {problems[0]}{more}"
            return
        yield from _input_flaws(use, reading.pipeline)

    # The whole.

    def _check_readers(self) -> None:
        if not self._whole:
            return
        for name in self._pipeline.stages:
            if name not in self._read:
                self._say(("stages", name), f"nobody reads {name!r}: no stage and not the output", of_key=True)

    def _check_stdin(self) -> None:
        readers = [name for name, spec in self._pipeline.inputs.items() if spec.stdin]
        for name in readers[1:]:
            self._say(
                ("inputs", name, "stdin"), f"standard input goes to {readers[0]!r} already; only one can have it"
            )


def _pipeline_uses(stage: Stage) -> Iterator[PipelineUse]:
    """The pipelines that a stage runs, those of the stages within it included."""
    yield from stage.pipelines()
    for key, inner in stage.inner().items():
        for use in _pipeline_uses(inner):
            yield PipelineUse(f"{stage.inner_key}.{key}.{use.key}", use.pipeline, use.inputs)


def _input_flaws(use: PipelineUse, pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    stem = use.key.removesuffix("pipeline")
    for name in sorted(use.inputs - set(pipeline.inputs)):
        yield f"{stem}inputs.{name}", f"{use.pipeline!r} has " + _no("input", name, pipeline.inputs)
    open_ones = [name for name, spec in pipeline.inputs.items() if spec.required and name not in use.inputs]
    for name in open_ones[1:]:
        yield use.key, f"{use.pipeline!r} needs {name!r} too; give it under `inputs`"


def _nested_file(name: str, library: Library, near: File | None) -> File:
    """The file of a pipeline that a stage names, looked up beside the stage's own file first."""
    if near is not None and name.endswith((".yaml", ".yml")) and (near / name).is_file():
        return near / name
    return library.pipeline(name)


def _field_flaw(stage: Stage, path: Path) -> str:
    """What is wrong with a path into a stage; empty if nothing is."""
    name, *rest = path
    fields = [output.name for output in stage.outputs]
    if not rest:
        return ""
    if rest[0] not in fields:
        return f"{name!r} has " + _no("field", rest[0], fields)
    if rest[0] == "data" and not stage.gives_data:
        return f"'{name}.data' is nothing, since {name!r} has no `schema`; give it one, or read {name}.text"
    return ""


def _keys(key: str) -> Place:
    """The keys and indexes of a dotted key: `role.0.when`."""
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))


def _no(what: str, name: str, known: Iterable[str], none: str = "there is none") -> str:
    near = close_names(name, known)
    return f"no {what} {name!r}{near or f'; {none}'}"


# Files.


def check_text(text: str, *, library: Library, file: str, roles: Collection[str] | None = None) -> list[Problem]:
    """Every mistake of a pipeline's text, positioned and sorted."""
    return _checked(read(text, file=file), Prompts(library), file, None, roles)


def check_file(path: File | str, library: Library, *, roles: Collection[str] | None = None) -> list[Problem]:
    """Every mistake of a pipeline file, positioned and sorted; a file that cannot be read is one too."""
    try:
        return _load(File(path), library, roles)[2]
    except UsageError as error:
        return [Problem(str(path), 0, 0, "", str(error))]


def load_checked(
    path: File | str, *, library: Library, roles: Collection[str] | None = None
) -> tuple[Pipeline, Prompts]:
    """A pipeline file and the prompts that it is rendered with. Raises PipelineError with every mistake of it."""
    reading, prompts, problems = _load(File(path), library, roles)
    if problems or reading.pipeline is None:
        raise PipelineError(problems)
    return reading.pipeline, prompts


def nested(pipeline: Pipeline, prompts: Prompts, *, near: File | None = None) -> dict[str, Nested]:
    """What the stages of a checked pipeline run: other pipelines, by the stages' paths. Raises PipelineError."""
    found: dict[str, Nested] = {}
    for path, stage in stages_within(pipeline.stages).items():
        for use in stage.pipelines():
            file = _nested_file(use.pipeline, prompts.library, near)
            inner, its_prompts = load_checked(file, library=prompts.library)
            found[path] = Nested(file, inner, its_prompts, nested(inner, its_prompts, near=file.parent))
    return found


def stages_within(stages: Mapping[str, Stage], prefix: str = "") -> dict[str, Stage]:
    """Stages by their paths, each followed by those within it."""
    found: dict[str, Stage] = {}
    for name, stage in stages.items():
        found[prefix + name] = stage
        found.update(stages_within(stage.inner(), f"{prefix}{name}/"))
    return found


def _load(
    path: File, library: Library, roles: Collection[str] | None, within: tuple[File, ...] = ()
) -> tuple[Reading, Prompts, list[Problem]]:
    reading = read(read_text(path, most=MAX_BYTES), file=str(path))
    prompts = Prompts(library.near(path.parent))
    within = (*within, path.resolve())
    return reading, prompts, _checked(reading, prompts, str(path), path.parent, roles, within)


def _checked(
    reading: Reading,
    prompts: Prompts,
    file: str,
    near: File | None,
    roles: Collection[str] | None,
    within: tuple[File, ...] = (),
) -> list[Problem]:
    if reading.pipeline is None:
        return reading.problems
    found = check(
        reading.pipeline,
        prompts=prompts,
        positions=reading.positions,
        roles=roles,
        file=file,
        near=near,
        unread=reading.unread if reading.problems else None,
        within=within,
    )
    return sorted({*reading.problems, *found})
