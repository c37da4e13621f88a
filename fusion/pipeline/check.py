"""Check: every mistake of a pipeline beyond its syntax, each at its place."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Final

from fusion.core.errors import Problem, PromptError, UsageError, close_names
from fusion.core.schema import check_shape
from fusion.core.yaml import Place, Positions
from fusion.models.catalog.learned import UNKNOWN
from fusion.pipeline.attributes import Attributes
from fusion.pipeline.dataflow import (
    ALWAYS,
    MATERIAL,
    Use,
    cycle_words,
    cycles_of,
    field_of,
    material_of,
    schemas_of,
    stages_within,
    table_reads,
    uses_of,
    wiring_of,
)
from fusion.pipeline.material import request_inputs
from fusion.pipeline.rows import Table
from fusion.pipeline.spec import Pipeline
from fusion.pipeline.written import is_written
from fusion.prompts.template import Path, Prompts
from fusion.stages.base import BUILT_IN, LEARNED, PipelineUse, Stage, tool_pipeline
from fusion.tools.base import Toolbox

_NOT_OF_ROWS: Final = frozenset({"by", "confidence", "needs"})
_BLIND: Final = (
    "a review has to see what it judges against: print item.shown, which is what the author was shown, item.source, "
    "material, or an input"
)
_WRITTEN: Final = (
    "tests read inputs and the source of an item, so that no model writes them; for files that a stage wrote, use "
    "`command` with `files`"
)
_NO_REQUEST: Final = (
    "the template prints `request`, which is always empty: no text input holds a request, they are all material; "
    "declare an input for the task, or set `material: false` on one"
)

_NO_NESTED: Final[Mapping[str, Pipeline | str]] = {}


def check(
    pipeline: Pipeline,
    *,
    prompts: Prompts,
    positions: Positions | None = None,
    roles: Collection[str] | None = None,
    file: str = "",
    near: File | None = None,
    unread: Collection[str] | None = None,
    nested: Mapping[str, Pipeline | str] = _NO_NESTED,
    toolbox: Toolbox | None = None,
    inside: "Inside | None" = None,
) -> list[Problem]:
    """Return every mistake of a pipeline beyond its syntax, in the order of the file.

    With `roles`, those of the profile, an unknown role is a mistake. Files of schemas are looked up in `near`.
    `unread` names the stages of the file that could not be read: references to them are not checked. `nested` maps
    the paths of stages to the pipelines that they run, or to the reason why one cannot be run. `inside` is that of a
    body. With a `toolbox`, a tool that it cannot have is a mistake.
    """
    checking = _Checking(
        pipeline,
        prompts,
        roles,
        near,
        nested,
        frozenset(unread or ()),
        unread is None,
        inside=inside,
        toolbox=toolbox,
    )
    checking.all()
    positions = positions or Positions()
    problems = []
    for where, of_key, message in dict.fromkeys(checking.found):
        place = where if inside is None else inside.place(where)
        mark = positions.key(place) if of_key else positions.at(place)
        problems.append(Problem(file or pipeline.name, *mark, ".".join(map(str, place)), message))
    return sorted(problems)


@dataclass(frozen=True)
class Inside:
    """A body that is checked: the names that it reads beside its own, and the place in the file of one in it."""

    names: frozenset[str]
    place: Callable[[Place], Place]


@dataclass
class _Checking:
    """Checks one pipeline; `found` collects (place, of_key, message)."""

    _pipeline: Pipeline
    _prompts: Prompts
    _roles: Collection[str] | None
    _near: File | None
    _nested: Mapping[str, Pipeline | str]
    _unread: frozenset[str]
    _whole: bool
    toolbox: Toolbox | None = None
    inside: Inside | None = None
    found: list[tuple[Place, bool, str]] = field(default_factory=list)
    _edges: dict[str, set[str]] = field(default_factory=dict)
    _read: set[str] = field(default_factory=set)
    _uses: list[tuple[str, Use]] = field(default_factory=list)

    @property
    def _stages(self) -> set[str]:
        return {*self._pipeline.stages, *self._unread}

    @property
    def _around(self) -> frozenset[str]:
        return frozenset() if self.inside is None else self.inside.names

    def all(self) -> None:
        for name, stage in self._pipeline.stages.items():
            self._stage(name, stage)
        self._outputs()
        for cycle in cycles_of(self._edges):
            self._say(("stages", cycle[0]), cycle_words(cycle), of_key=True)
        self._check_readers()
        self._check_attributes()
        if self.inside is None:
            self._check_stdin()
            self._check_request()

    def _say(self, place: Place, message: str, *, of_key: bool = False) -> None:
        self.found.append((place, of_key, message))

    def _stage(self, name: str, stage: Stage) -> None:
        def broken(key: str, message: str) -> None:
            self._whole = False
            self._say((*here, *_keys(key)), message)

        here = ("stages", name)
        uses = list(uses_of(stage, self._prompts, broken, stage.item_offers, around=self._around))
        for use in uses:
            self._use((*here, *_keys(use.key)), use, name)
        self._uses += [(name, use) for use in uses]
        self._check_reading(here, name, stage)
        self._check_rows(name, uses)
        self._check_one_way(here, [use for use in uses if not use.flows and use.key != "when"])
        self._check_one_way(here, [use for use in uses if use.key == "when"])
        self._edges[name] = wiring_of(stage, uses, self._pipeline.stages).before
        self._read |= self._edges[name] - {name}
        self._check_needs(here, stage)
        self._check_roles(here, stage)
        self._check_nested(here, name, stage)
        self._check_tools(here, stage)
        for path, one in stages_within({name: stage}).items():
            inner = (*here, *(part for outer in path.split("/")[1:] for part in (stage.inner_key, outer)))
            said = {place for place, _, _ in self.found}
            for key, message in one.flaws():
                if (*inner, key) not in said:
                    self._say((*inner, key), message)
            self._check_of_inputs(inner, one)
        if (
            stage.output_fields[0].feed
            and stage.if_skipped is not None
            and not isinstance(stage.default, (list, tuple))
        ):
            self._say((*here, "default"), f"readers of {name!r} get a list of items; give a list, such as []")
        for key, shape in stage.schemas():
            for flaw in check_shape(shape, near=self._near):
                self._say((*here, *_keys(key), *flaw.path), flaw.message)

    def _outputs(self) -> None:
        table = isinstance(self._pipeline.output, Table)
        for name, source in self._pipeline.outputs.items():
            self._output(("output", *([name] if name else ["over"] * table)), source, listed=table)
        for name, source in self._pipeline.columns.items():
            self._output(("output", "columns", name), source, offers=frozenset({"item"}))

    def _output(
        self, place: Place, source: str, *, offers: frozenset[str] = frozenset(), listed: bool = False
    ) -> None:
        try:
            expression = self._prompts.expression(source)
            offers |= self._around
            use = Use("output", source, expression.paths, offers, flows=listed and expression.bare, listed=listed)
        except PromptError as error:
            self._whole = False
            self._say(place, str(error))
            return
        self._uses.append(("", use))
        self._use(place, use, "")
        self._check_one_way(place, [use], exact=True)
        self._read |= {path[0] for path in use.paths} - offers

    # Templates and expressions.

    def _use(self, place: Place, use: Use, stage: str) -> None:
        for path in sorted(use.paths):
            message = self._path(path, use)
            if message:
                self._say(place, message)
        for name in sorted((use.offers - use.extras - self._around) & self._stages):
            words = f"rename the stage: {stage}.{use.key} has a variable {name!r} of its own"
            self._say(("stages", name), words, of_key=True)
        if use.flows:
            self._check_listed(place, use)

    def _path(self, path: Path, use: Use) -> str:
        """Return the error message of a path; empty if it is right."""
        name = path[0]
        replaced = name in use.extras and name in self._pipeline.stages
        if name == LEARNED and name in use.offers and not replaced:
            return self._learned_flaw(path)
        if (name in use.offers and not replaced) or name in self._unread or name == "request":
            return ""
        if name == "inputs":
            known = self._pipeline.inputs
            return "" if len(path) == 1 or path[1] in known else _no("input", path[1], known, "the pipeline has none")
        if name in self._pipeline.stages:
            return _field_flaw(self._pipeline.stages[name], path)
        if name in self._pipeline.inputs:
            return f"no stage or variable {name!r}; the input is read as inputs.{name}"
        if use.listed or use.key == "output":
            return _no("stage or variable" if use.offers else "stage", name, {*self._stages, *use.offers})
        return _no("stage or variable", name, {*self._stages, *use.offers, *ALWAYS})

    def _learned_flaw(self, path: Path) -> str:
        """Return the error message of a path into learned figures, as in learned.LABEL.ROLE.accuracy."""
        roles = {role for stage in self._pipeline.stages.values() for _, role in stage.roles()}
        if len(path) > 2 and path[2] not in (known := {*roles, *self._pipeline.roles}) and not self._unread:
            return _no("role", path[2], known)
        return _no("figure", path[3], UNKNOWN) if len(path) > 3 and path[3] not in UNKNOWN else ""

    def _check_listed(self, place: Place, use: Use) -> None:
        path = next(iter(use.paths), ())
        if path in ((), ("inputs",), ("request",)):
            self._say(place, f"{use.source!r} is not a list; name a list, such as a stage's items")
        if not path or path[0] not in self._pipeline.stages or len(path) > 2:
            return
        first, *others = self._pipeline.stages[path[0]].output_fields
        if not first.feed and path[1:] in ((), (first.name,)):
            lists = [f"{path[0]}.{output.name}" for output in others]
            near = f", such as {', '.join(lists)}, if it holds one" if lists else ""
            self._say(place, f"{'.'.join(path)!r} is one value, not a list; name a list{near}")

    def _check_one_way(self, place: Place, uses: list[Use], *, exact: bool = False) -> None:
        """Refuse to read a stage both by its bare name and by its fields: the name would have two meanings."""
        named = {path[0]: path for use in uses for path in sorted(use.paths, reverse=True) if len(path) > 1}
        for use in uses:
            for path in use.paths:
                name = path[0]
                if len(path) == 1 and name in named and name in self._pipeline.stages and name not in use.offers:
                    field = field_of(path, self._pipeline.stages)
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

    def _check_nested(self, here: Place, name: str, stage: Stage) -> None:
        seen: dict[str, str] = {}
        for path, use in pipeline_uses(name, stage):
            nested = self._nested.get(path)
            if use.tool and seen.setdefault(path, use.pipeline) != use.pipeline:
                words = f"the pipelines {seen[path]!r} and {use.pipeline!r} make tools of one name, {use.tool!r}"
                self._say((*here, *_keys(use.key)), f"{words}; rename a file")
            flaws = [(use.key, nested)] if isinstance(nested, str) else _input_flaws(use, nested)
            for key, message in flaws:
                self._say((*here, *_keys(key)), message)

    def _check_tools(self, here: Place, stage: Stage) -> None:
        if self.toolbox is None:
            return
        for key, name in stage.tools_used():
            if (message := unusable_tool(name, self.toolbox)) is not None:
                self._say((*here, *_keys(key)), message)
        for name, inner in stage.inner().items():
            self._check_tools((*here, stage.inner_key, name), inner)

    # Who reads what.

    def _check_reading(self, here: Place, name: str, stage: Stage) -> None:
        """Refuse `reads` without effect, and a judge that does not see what it judges against."""
        for path, one in stages_within({name: stage}).items():
            uses = list(uses_of(one, self._prompts, lambda key, message: None))
            inner = (*here, *(part for outer in path.split("/")[1:] for part in (stage.inner_key, outer)))
            shown = any(use_path[0] == MATERIAL for use in uses for use_path in use.paths)
            if getattr(one, "reads", None) not in (None, "none") and not shown and self._whole:
                words = "no template of the stage prints `material`, so `reads` has no effect; print {{ material }}"
                self._say((*inner, "reads"), words)
            for use in uses:
                if use.key in one.judging and not _sees(use):
                    self._say((*inner, *_keys(use.key)), _BLIND)

    def _check_of_inputs(self, here: Place, stage: Stage) -> None:
        """Refuse templates of inputs that read what a model may have written."""
        for use in uses_of(stage, self._prompts, lambda key, message: None, stage.item_offers):
            if use.of_inputs and any(
                is_written(path, stage, self._pipeline.stages, self._prompts) for path in use.paths
            ):
                self._say((*here, *_keys(use.key)), _WRITTEN)

    def _check_rows(self, name: str, uses: list[Use]) -> None:
        for read in table_reads(name, uses, self._pipeline.inputs):
            for field_name in sorted(_NOT_OF_ROWS & set(read.names)):
                self._say(
                    ("stages", name, *_keys(read.key)),
                    f"`item.{field_name}` says how an item was made, and rows of {read.table!r} were not made; for a "
                    f"column of this name write item.source.{field_name}",
                )

    def _check_request(self) -> None:
        """Refuse templates that print `request` where it is always empty."""
        uses = [use for _, use in self._uses]
        if not (self._whole and self._pipeline.inputs) or request_inputs(
            self._pipeline, material_of(self._pipeline, uses)
        ):
            return
        for name, use in self._uses:
            if name and "request" in use.unguarded:
                self._say(("stages", name, *_keys(use.key)), _NO_REQUEST)

    # The whole.

    def _check_readers(self) -> None:
        if not self._whole:
            return
        for name in self._pipeline.stages:
            if name not in self._read:
                self._say(
                    ("stages", name), f"{name!r} is unused: neither a stage nor the output reads it", of_key=True
                )

    def _check_attributes(self) -> None:
        if not self._whole:
            return
        try:
            schemas = schemas_of(self._pipeline, near=self._near)
        except UsageError:  # a flaw of a shape, which is said already
            return
        for path, key, message in Attributes(self._pipeline, self._prompts, schemas, {}).flaws():
            here = ("stages", *path.split("/"), *_keys(key)) if path else ("output", *_of_output(key))
            self._say(here, message)

    def _check_stdin(self) -> None:
        readers = [name for name, spec in self._pipeline.inputs.items() if spec.stdin]
        for name in readers[1:]:
            self._say(
                ("inputs", name, "stdin"), f"standard input goes to {readers[0]!r} already; only one can have it"
            )


def pipeline_uses(path: str, stage: Stage) -> Iterator[tuple[str, PipelineUse]]:
    """Yield the pipelines that a stage and the stages within it run, each with the path of its stage or tool."""
    for use in stage.pipelines():
        yield path + use.within, use
    for name, inner in stage.inner().items():
        for inner_path, use in pipeline_uses(f"{path}/{name}", inner):
            yield inner_path, replace(use, key=f"{stage.inner_key}.{name}.{use.key}")


def unusable_tool(name: str, toolbox: Toolbox) -> str | None:
    """Return the reason why the tool of a name cannot be had; None if it may. No tool is started."""
    if name in BUILT_IN or tool_pipeline(name) is not None:
        return None  # built in, or loaded with its stage
    try:
        toolbox.check(name)
    except UsageError as error:
        return str(error)
    return None


def _input_flaws(use: PipelineUse, pipeline: Pipeline | None) -> Iterator[tuple[str, str]]:
    if pipeline is None or use.tool:
        return
    stem = use.key.removesuffix("pipeline")
    for name in sorted(use.inputs - set(pipeline.inputs)):
        yield f"{stem}inputs.{name}", f"{use.pipeline!r} has " + _no("input", name, pipeline.inputs)
    open_ones = [name for name, spec in pipeline.inputs.items() if spec.required and name not in use.inputs]
    for name in open_ones[1:]:
        yield use.key, f"{use.pipeline!r} needs {name!r} too; give it under `inputs`"


def _sees(use: Use) -> bool:
    """Return True if a template of a review shows what a value is judged against."""
    names = {path[0] for path in use.paths}
    return bool({MATERIAL, "inputs", "task"} & names or {"shown", "source"} & use.mentions)


def _field_flaw(stage: Stage, path: Path) -> str:
    """Return the error message of a path into a stage; empty if it is right."""
    name, *rest = path
    fields = [output.name for output in stage.output_fields]
    if not rest:
        return ""
    if rest[0] not in fields:
        return f"{name!r} has " + _no("field", rest[0], fields)
    if rest[0] == "data" and not stage.gives_data:
        return f"'{name}.data' is empty because {name!r} has no `schema`; add one, or read {name}.text"
    return ""


def _of_output(key: str) -> Place:
    """The keys of an output's key: `columns.NAME` for a column, whose name may have dots."""
    column = key.removeprefix("columns.")
    return ("columns", column) if column != key else (key,) if key else ()


def _keys(key: str) -> Place:
    """The keys and indexes of a dotted key: `role.0.when`."""
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))


def _no(what: str, name: str, known: Iterable[str], none: str = "there are none") -> str:
    near = close_names(name, known)
    return f"no {what} {name!r}{near or f'; {none}'}"
