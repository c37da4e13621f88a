"""Pipeline: the model of a pipeline file, read from YAML and written back."""

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, LiteralString, NamedTuple

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from fusion.core.errors import PipelineError, Problem, close_names
from fusion.core.params import Defaults, RoleSpec
from fusion.core.paths import read_text
from fusion.core.types import Limits
from fusion.core.validation import MISSING, Authored, Mistake, keys_at, misread, mistakes
from fusion.core.yaml import MAX_BYTES, Place, Positions, read_yaml
from fusion.pipeline.rows import Table, is_table
from fusion.stages.base import STAGE_READER, Stage
from fusion.stages.fields import NAME, Name
from fusion.stages.registry import kinds

_TEXT = "<text>"


class InputSpec(Authored):
    """An input of a pipeline. Without a `default` it is required. Short form: its description."""

    description: str = Field(default="", description="Description for people.")
    default: Any = Field(default=None, description="Value if none is given; without this key the input is required.")
    stdin: bool = Field(default=False, description="Read it from standard input if no value is given.")
    format: Literal["text", "jsonl", "csv", "image", "file"] = Field(
        default="text",
        description="Format: `jsonl` and `csv` become a list of rows; an `image`, or a `file` (picture or PDF), is "
        "sent to models wherever a template prints it.",
    )
    material: bool | None = Field(
        default=None,
        description="True for material to work on, false for a part of the request; by default from its use.",
    )

    @property
    def is_file(self) -> bool:
        """True for a picture or a document."""
        return self.format in ("image", "file")

    @property
    def required(self) -> bool:
        return "default" not in self.model_fields_set

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"description": given} if isinstance(given, str) else given


def _stage(given: Any) -> Any:
    """Return the stage that a mapping describes, of the class of its `kind`."""
    if not isinstance(given, Mapping):
        if isinstance(given, Stage):
            return given
        raise PydanticCustomError("stage", "expected a stage, as in {kind: generate, …}")
    if "kind" not in given:
        raise _at_kind(f"the key 'kind' is missing; there are: {', '.join(sorted(kinds()))}", given, (), MISSING)
    kind = given["kind"]
    cls = kinds().get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise _at_kind(f"no kind {kind!r}{close_names(str(kind), kinds())}", kind, ("kind",), "kind")
    return cls.model_validate(given, by_alias=True, by_name=False, context={STAGE_READER: _stage})


def _at_kind(message: str, given: Any, loc: tuple[str, ...], name: LiteralString) -> ValidationError:
    error = PydanticCustomError(name, "{message}", {"message": message})
    return ValidationError.from_exception_data("stage", [InitErrorDetails(type=error, loc=loc, input=given)])


AnyStage = Annotated[SerializeAsAny[Stage], BeforeValidator(_stage)]


def _form_of_output(given: Any) -> str:
    if is_table(given):
        return "table"
    return "names" if isinstance(given, Mapping) else "expression"


Output = Annotated[
    Annotated[Table, Tag("table")]
    | Annotated[str, Tag("expression")]
    | Annotated[dict[str, str], Tag("names"), Field(min_length=1)],
    Discriminator(_form_of_output),
]


class Pipeline(Authored):
    """A graph of stages with its inputs, limits and output.

    >>> from fusion.stages.kinds.generate import Generate
    >>> Pipeline(name="hello", stages={"answer": Generate(prompt="Say hello.")}, output="answer").name
    'hello'
    """

    name: str = Field(
        default="pipeline", min_length=1, max_length=200, description="Name; by default that of the file."
    )
    description: str = Field(default="", description="Description for people.")
    inputs: dict[Name, InputSpec] = Field(
        default={}, description="Inputs by name; the first required one takes the prompt."
    )
    budget: Limits = Field(default=Limits(), description="Spending limits of a run.")
    on_budget: Literal["fail", "finish"] = Field(
        default="fail", description="On an exhausted budget: end the run, or finish with partial results."
    )
    defaults: Defaults = Field(default=Defaults(), description="Parameters of every call that does not set its own.")
    roles: dict[str, RoleSpec] = Field(default={}, description="Roles pinned to a model or tuned, by name.")
    stages: dict[Name, AnyStage] = Field(min_length=1, description="The stages, by name.")
    output: Output = Field(
        description="The answer: an expression, a mapping of names to expressions, or a table: `{format, columns}`."
    )

    @field_validator("stages")
    @classmethod
    def _know_each_other(cls, stages: dict[str, Stage]) -> dict[str, Stage]:
        return among_each_other(stages)

    @property
    def prompt_input(self) -> str | None:
        """The input that takes the prompt: the first required one, else the first."""
        texts = {name: spec for name, spec in self.inputs.items() if not spec.is_file}
        return next((name for name, spec in texts.items() if spec.required), next(iter(texts), None))

    @property
    def outputs(self) -> dict[str, str]:
        """The expressions of the output by name; a single one, or that of a table's items, has the name ""."""
        if isinstance(self.output, Table):
            return {"": self._table_items}
        return {"": self.output} if isinstance(self.output, str) else dict(self.output)

    @property
    def answer_stage(self) -> str | None:
        """The stage whose text is the answer unchanged, if any."""
        if not isinstance(self.output, str):
            return None
        name, _, field = self.output.strip().partition(".")
        return name if name in self.stages and field in ("", "text") else None

    @property
    def columns(self) -> dict[str, str]:
        """The expressions of a table's columns by name, over one item; none for other outputs."""
        return self.output.expressions if isinstance(self.output, Table) else {}

    @property
    def _table_items(self) -> str:
        """The expression of a table's items: by default the last stage that has some."""
        assert isinstance(self.output, Table)
        if self.output.over is not None:
            return self.output.over
        named = (name for name, stage in reversed(self.stages.items()) if stage.output_fields[0].feed)
        return next(named, next(reversed(self.stages)))

    @classmethod
    def keys_within(cls, given: Mapping[str, Any], place: Place) -> list[str]:
        if len(place) < 2 or place[0] != "stages":
            return super().keys_within(given, place)
        at: Any = given["stages"]
        kind, behind = "", 0
        for depth, part in enumerate(place[1:], start=2):
            at = at.get(part) if isinstance(at, Mapping) else None
            if isinstance(at, Mapping) and at.get("kind") in kinds():
                kind, behind = at["kind"], depth
        return keys_at(kinds()[kind], place[behind:])

    @classmethod
    def from_yaml(cls, text: str, *, file: str = _TEXT) -> "Pipeline":
        """Read a pipeline from YAML. Raises PipelineError with every syntax mistake; `check` finds the others."""
        reading = read(text, file=file)
        if reading.problems or reading.pipeline is None:
            raise PipelineError(reading.problems)
        return reading.pipeline

    @classmethod
    def load(cls, path: Path | str) -> "Pipeline":
        """Read a pipeline file. Raises UsageError if it cannot be read, PipelineError as `from_yaml` does."""
        return cls.from_yaml(read_text(Path(path), most=MAX_BYTES), file=str(path))

    def to_data(self) -> dict[str, Any]:
        """Return the pipeline as JSON data in the form of its YAML; `from_data` reads it back."""
        return _as_data(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Pipeline":
        """Read a pipeline from the data of `to_data`."""
        return cls.model_validate(data, by_alias=True, by_name=False)

    def to_yaml(self, *, comments: Mapping[Place, str] | None = None) -> str:
        """Return the pipeline as YAML, without defaults and in short forms.

        `comments` are written above the keys at their places.
        """
        return _dumped(_as_data(self), comments or {})


def among_each_other(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """Return stages, each with what it takes from the others."""
    return {name: stage.among(stages) for name, stage in stages.items()}


class Reading(NamedTuple):
    """The readable part of a pipeline file, its mistakes, and the positions of its keys.

    `unread` names the stages that are left out of `pipeline` because of mistakes.
    """

    pipeline: Pipeline | None
    problems: list[Problem]
    positions: Positions
    unread: frozenset[str] = frozenset()


def read(text: str, *, file: str = _TEXT) -> Reading:
    """Read a pipeline and find every syntax mistake; `check` can still check the readable part."""
    data, problems, positions = read_yaml(text, file=file)
    if data is None and problems:
        return Reading(None, sorted(problems), positions)
    if not isinstance(data, dict):
        line, column = positions.at(())
        message = "expected a mapping with the keys `stages` and `output`"
        return Reading(None, sorted([*problems, Problem(file, line, column, "", message)]), positions)
    if file != _TEXT:
        data.setdefault("name", Path(file).stem)
    pipeline, found, unread = _parsed(data)
    problems += [_problem(mistake, file, positions) for mistake in found]
    return Reading(pipeline, sorted(set(problems)), positions, unread)


def _parsed(data: dict[str, Any]) -> tuple[Pipeline | None, list[Mistake], frozenset[str]]:
    """Return the readable part of a pipeline, its mistakes, and the stages left out."""
    found: list[Mistake] = []
    unread: set[str] = set()
    pipeline = _validated(data, found)
    if pipeline is None:
        whole = _without(data, found, unread)
        pipeline = _validated(whole, []) if whole is not None else None
    if pipeline is not None:
        found += misread(data, pipeline)
    return pipeline, found, frozenset(unread)


def _validated(data: dict[str, Any], found: list[Mistake]) -> Pipeline | None:
    try:
        return Pipeline.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        found += mistakes(error, data, lambda place: Pipeline.keys_within(data, place))
        return None


def _without(data: dict[str, Any], found: list[Mistake], unread: set[str]) -> dict[str, Any] | None:
    """Return the data without its mistakes, so that the rest can be checked; None if too much is wrong.

    A wrong stage is left out, a wrong input or role is replaced by a placeholder, any other wrong key is dropped.
    """
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    for place, of_key, _ in found:
        match place:
            case ("stages" | "inputs",):
                return None
            case ("stages", str(name), *_):
                kept["stages"].pop(name, None)
                unread.add(name)
            case ("inputs" | "roles" as key, str(name), *rest):
                kept[key][name] = "unread/unread"
                if of_key and not rest and not NAME.fullmatch(name):
                    kept[key].pop(name)
            case (str(key), *_):
                kept.pop(key, None)
    kept.setdefault("output", "inputs")
    return kept


def _problem(mistake: Mistake, file: str, positions: Positions) -> Problem:
    mark = positions.key(mistake.place) if mistake.of_key else positions.at(mistake.place)
    return Problem(file, *mark, ".".join(str(part) for part in mistake.place), mistake.message)


# Back to YAML.


def _as_data(pipeline: Pipeline) -> dict[str, Any]:
    data = pipeline.model_dump(exclude_defaults=True, exclude={"inputs", "roles", "stages"})
    data["name"] = pipeline.name
    data["inputs"] = {name: _input_data(spec) for name, spec in pipeline.inputs.items()}
    data["roles"] = {name: _role_data(spec) for name, spec in pipeline.roles.items()}
    data["stages"] = {name: _stage_data(stage) for name, stage in pipeline.stages.items()}
    return {key: _plain(data[key]) for key in Pipeline.model_fields if data.get(key)}


def _input_data(spec: InputSpec) -> Any:
    data = spec.model_dump(exclude_defaults=True)
    if not spec.required:
        data["default"] = spec.default
    return spec.description if data.keys() <= {"description"} else data


def _role_data(spec: RoleSpec) -> Any:
    data = spec.model_dump(exclude_defaults=True)
    return spec.chain[0] if data.keys() <= {"chain"} and len(spec.chain) == 1 else data


def _stage_data(stage: Stage) -> dict[str, Any]:
    return {"kind": stage.kind, **stage.model_dump(exclude_unset=True, by_alias=True)}


def _plain(value: Any) -> Any:
    """Return values that YAML can hold: money as a number, tuples as lists."""
    if isinstance(value, Decimal):
        number = float(value)
        return int(value) if value == int(value) else number if Decimal(str(number)) == value else str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: part if key == "default" else _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _dumped(data: dict[str, Any], comments: Mapping[Place, str]) -> str:
    from io import StringIO

    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.scalarstring import LiteralScalarString

    def styled(value: Any, place: Place) -> Any:
        if isinstance(value, dict):
            made = CommentedMap((_quoted(key), styled(part, (*place, key))) for key, part in value.items())
            for key in value:
                if (*place, key) in comments:
                    said = comments[(*place, key)]
                    made.yaml_set_comment_before_after_key(key, before=said, indent=2 * len(place))
            return made
        if isinstance(value, list):
            return [styled(part, (*place, at)) for at, part in enumerate(value)]
        return LiteralScalarString(value) if isinstance(value, str) and _is_block(value) else _quoted(value)

    yaml = YAML(pure=True)
    yaml.width = 100_000
    stream = StringIO()
    yaml.dump(styled(data, ()), stream)
    return stream.getvalue()


def _quoted(value: Any) -> Any:
    """Quote text that YAML would not read back unchanged."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return DoubleQuotedScalarString(value) if isinstance(value, str) and not _is_simple(value) else value


def _is_simple(text: str) -> bool:
    """True for printable ASCII, which the YAML writer quotes by itself."""
    return text.isascii() and text.isprintable()


def _is_block(text: str) -> bool:
    """True for text that a literal block preserves exactly."""
    lines = text.removesuffix("\n").split("\n")
    if "\n" not in text or not lines[0] or not lines[-1] or lines[0][0].isspace():
        return False
    return all(line.isprintable() and not line[-1:].isspace() for line in lines)
