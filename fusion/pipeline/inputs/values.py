"""Inputs: a user's prompt or messages and named values become the inputs of a pipeline."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import BaseModel, PydanticUserError, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from fusion.core.errors import InputError, UsageError, close_names
from fusion.core.schema import ClassSchema
from fusion.core.types import Asked, File, FileText, Item, JsonSchema, Turn, as_text
from fusion.pipeline.dataflow import TableRead
from fusion.pipeline.inputs.media import file_of, turn_of
from fusion.pipeline.material import fenced_turns, request_inputs
from fusion.pipeline.rows import rows_of
from fusion.pipeline.spec import InputSpec, Pipeline
from fusion.stages.answer import AnswerStage

Given = Mapping[str, Any]


def request_of(prompt: str | Sequence[Mapping[str, Any]] | None) -> str | None:
    """Return the request: the last message, with the turns before it as its conversation.

    System messages become the system prompt, above the pipeline's own in every call. Pictures and documents are
    attached to the request. Raises InputError for a malformed message.
    """
    if prompt is None or isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, (list, tuple)):
        raise InputError(f"a prompt is a text or a list of messages, not {type(prompt).__name__}")
    if not prompt:
        raise InputError("`messages` is empty; give at least one user message")
    turns = [turn_of(at, message) for at, message in enumerate(prompt)]
    if turns[-1].role != "user":
        raise InputError(f"the last message has the role {turns[-1].role!r}; it must be a user message")
    system = "\n\n".join(turn.content for turn in turns if turn.role == "system")
    files = tuple(file for turn in turns for _, file in turn.files)
    *before, last = [turn for turn in turns if turn.role != "system"]
    return Asked(last.content, files, system, tuple(Turn(turn.role, turn.content) for turn in before))


def with_conversation(request: str | None) -> str | None:
    """Return the request with its earlier turns above it, for a pipeline whose templates print no material."""
    if not isinstance(request, Asked) or not request.conversation:
        return request
    said = "\n\n".join(fenced_turns(request))
    text = f"The conversation so far:\n\n{said}\n\nThe request now:\n\n{request.text}"
    return Asked(text, request.files, request.system)


def filled(
    pipeline: Pipeline, request: str | None, given: Mapping[str, Any], *, material: Collection[str]
) -> tuple[str, dict[str, Any]]:
    """Return (request, inputs), with defaults filled in; the prompt fills the first required input.

    The request is the first text input that is no `material`, empty without one. Raises InputError for a missing or
    unknown input.
    """
    unknown = sorted(set(given) - set(pipeline.inputs))
    if unknown:
        raise InputError(f"{pipeline.name!r} has no input {unknown[0]!r}{close_names(unknown[0], pipeline.inputs)}")
    values = dict(given)
    required = [name for name, spec in pipeline.inputs.items() if spec.required]
    if request is not None:
        open_ones = [name for name in required if name not in values and not pipeline.inputs[name].is_file]
        if not open_ones:
            raise InputError(f"{pipeline.name!r} has no required input left for the prompt; give inputs by name")
        values[open_ones[0]] = request
    missing = [name for name in required if name not in values]
    if missing:
        raise InputError(_missing(pipeline, missing))
    values.update({name: file_of(name, value) for name, value in values.items() if pipeline.inputs[name].is_file})
    for name, value in values.items():
        _check_data(name, value)
        _check_format(name, value, pipeline.inputs[name])
    values.update(_rows(pipeline, values))
    for name, spec in pipeline.inputs.items():
        values.setdefault(name, spec.default)
    texts = request_inputs(pipeline, material)
    first = next((name for name in texts if not isinstance(values[name], (list, tuple, File))), None)
    text = "" if first is None or values[first] is None else as_text(values[first])
    if isinstance(request, Asked) and not isinstance(text, Asked):
        text = Asked(text, request.files, request.system, request.conversation)
    return text, values


def filled_within(
    pipeline: Pipeline, request: str, given: Mapping[str, Any], *, material: Collection[str]
) -> tuple[str, dict[str, Any]]:
    """Fill the inputs of a nested pipeline: the request fills a required input without a value."""
    open_ones = [name for name, spec in pipeline.inputs.items() if spec.required and name not in given]
    values = {name: plain(value) for name, value in given.items()}
    return filled(pipeline, request if open_ones else None, values, material=material)


def plain(value: Any) -> Any:
    """Return data with every item replaced by its value."""
    if isinstance(value, Item):
        return value.value
    if isinstance(value, list):
        return [plain(element) for element in value]
    return value


def check_hidden_columns(reads: Iterable[TableRead], inputs: Mapping[str, Any]) -> None:
    """Raise InputError for a column that a field of the item itself hides in a template."""
    for read in reads:
        rows = inputs.get(read.table)
        columns = (
            {key for row in rows if isinstance(row, Mapping) for key in row} if isinstance(rows, list) else set()
        )
        for name in read.names:
            if name in columns:
                raise InputError(
                    f"stages.{read.stage}.{read.key}: `item.{name}` is a field of every item, and {read.table!r} has "
                    f"a column of this name; write `item.source.{name}` for the column"
                )


def _check_format(name: str, value: Any, spec: InputSpec) -> None:
    if isinstance(value, File) and not spec.is_file:
        raise InputError(f"input {name!r} is {value}, and the pipeline takes a text; declare it as `format: file`")
    if isinstance(value, File) and spec.format == "image" and value.kind != "image":
        raise InputError(f"input {name!r} is {value}, and the pipeline takes a picture")


def _rows(pipeline: Pipeline, values: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every input given as CSV or JSONL text."""
    rows = {}
    for name, value in values.items():
        form = pipeline.inputs[name].format
        if (form == "jsonl" or form == "csv") and isinstance(value, str):
            where = value.where if isinstance(value, FileText) else f"input {name!r}"
            rows[name] = rows_of(value, form, where=where)
    return rows


def _check_data(name: str, value: Any) -> None:
    """Raise InputError for a value that JSON or UTF-8 cannot hold."""
    match value:
        case None | bool() | int() | float() | File():
            return
        case Mapping():
            for key, part in value.items():
                _check_data(name, key)
                _check_data(name, part)
        case list() | tuple():
            for part in value:
                _check_data(name, part)
        case str():
            _check_text(name, value)
        case _:
            _check_serializable(name, value)


def _check_text(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"input {name!r} is not text: character {error.start} is not Unicode; give it in UTF-8"
        ) from error


def _check_serializable(name: str, value: Any) -> None:
    try:
        to_json(value)
    except PydanticSerializationError as error:
        raise InputError(f"input {name!r} holds {type(value).__name__}, which JSON cannot hold") from error


def _missing(pipeline: Pipeline, missing: Sequence[str]) -> str:
    words = ", ".join(
        f"{name!r} ({pipeline.inputs[name].description})" if pipeline.inputs[name].description else repr(name)
        for name in missing
    )
    return (
        f"{pipeline.name!r} needs {words}. The first goes as the prompt; any goes as `-i {missing[0]}=text` or "
        f"`-i {missing[0]}=@file`, from Python as `inputs={{{missing[0]!r}: …}}`"
    )


def schema_of(given: type[BaseModel]) -> JsonSchema:
    """Return the JSON Schema of a pydantic class, with its own checks. Raises UsageError if it has none."""
    try:
        return ClassSchema(given.model_json_schema(), partial(_flaws, given))
    except (AttributeError, PydanticUserError) as error:
        words = str(error).partition("\n")[0]
        raise UsageError(f"`schema` is {given!r}; give a pydantic class that JSON can hold: {words}") from error


def instance_of(given: type[BaseModel], data: Any) -> BaseModel:
    """Return the instance of a class that JSON data stands for. Raises ValidationError.

    A strict class accepts a date, a Decimal or an Enum as JSON writes it.
    """
    return given.model_validate_json(to_json(data))


def _flaws(given: type[BaseModel], data: Any) -> list[str]:
    """Return the violations of a class in JSON data, each a sentence with its place."""
    try:
        instance_of(given, data)
    except ValidationError as error:
        return [
            f"{''.join(['$', *map(_step, flaw['loc'])])}: {flaw['msg']}" for flaw in error.errors(include_url=False)
        ]
    return []


def _step(part: str | int) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part}"


def shaped_output(pipeline: Pipeline, schema: JsonSchema) -> Pipeline:
    """Return the pipeline with this schema on the stage that writes the answer."""
    output = pipeline.output
    stage = pipeline.stages.get(output) if isinstance(output, str) else None
    if not isinstance(output, str) or not isinstance(stage, AnswerStage) or stage.output_fields[0].feed:
        raise UsageError(
            f"`schema` shapes the stage that writes the answer, and `output` of {pipeline.name!r} is {output!r}; "
            "it must name a generate or merge stage"
        )
    shaped = stage.model_copy(update={"output_schema": schema})
    return pipeline.model_copy(update={"stages": {**pipeline.stages, output: shaped}})
