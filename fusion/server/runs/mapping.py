"""Mapping: the request of a client becomes the prompt, the inputs and the limits of a run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from fusion.client.options import Prompt
from fusion.core.budget import limits_of, over
from fusion.core.errors import PipelineError
from fusion.core.params import AnswerOptions
from fusion.core.types import Limits
from fusion.core.types import Message as Turn
from fusion.pipeline.inputs.values import request_of
from fusion.pipeline.loader import LoadedPipeline
from fusion.server.base import RefusedError, ServedRequest
from fusion.server.catalog import ServedPipeline
from fusion.server.runs.messages import Message, TextFile, told, with_files, with_turns, without_files


class Mapped(TypedDict):
    """Arguments of `Fusion.start` that a request sets."""

    prompt: Prompt
    pipeline: LoadedPipeline
    inputs: dict[str, Any]
    budget: Limits | None
    tags: dict[str, str]
    answer: AnswerOptions | None


def options_of(pipeline: LoadedPipeline, served: ServedPipeline, request: ServedRequest) -> Mapped:
    """Return the options of a run. Raises RefusedError for missing inputs, UsageError for a budget that is none.

    The last turn is the prompt, and earlier ones are the conversation. Text files fill the empty inputs for material,
    then go before the words of the prompt. Calls of tools at the end, and their results, are turns of the answer.
    """
    before, turns = with_turns(request.messages)
    messages, files = without_files(before)
    inputs = dict(request.inputs)
    for name, file in zip(_empty(pipeline, inputs), list(files), strict=False):
        inputs[name] = file.text
        files.remove(file)
    prompt = _prompt(pipeline, inputs, told(messages), files)
    _check_inputs(pipeline, inputs, prompted=prompt is not None)
    return Mapped(
        prompt=prompt,
        pipeline=pipeline,
        inputs=inputs,
        budget=budget_of(pipeline, served, limits_of(request.budget)),
        tags=dict(request.tags),
        answer=_answer(request.answer, turns),
    )


def _answer(given: AnswerOptions, turns: tuple[Turn, ...]) -> AnswerOptions | None:
    if not turns:
        return given if given.given else None
    try:
        return AnswerOptions(**{**given.given, "turns": turns})
    except PipelineError as error:
        raise RefusedError(f"messages: {error.problems[0].message}", param="messages") from error


def budget_of(pipeline: LoadedPipeline, served: ServedPipeline, asked: Limits | None) -> Limits | None:
    """Return the limits of a request: those of the server, which the request may lower; None for the pipeline's."""
    if asked is None:
        return served.budget
    return asked.tighter(over(pipeline.pipeline.budget.tighter(served.limits), served.budget))


def _empty(pipeline: LoadedPipeline, inputs: Mapping[str, Any]) -> Iterator[str]:
    """Yield the inputs for material that take text and have no value, in order; never that of the prompt."""
    material = pipeline.dataflow.material
    for name, spec in pipeline.pipeline.inputs.items():
        if name in material and name not in inputs and not spec.is_file:
            yield name


def _prompt(
    pipeline: LoadedPipeline, inputs: dict[str, Any], messages: Sequence[Message], files: Sequence[TextFile]
) -> Prompt:
    """Return the prompt; without a required input for it, put it into the first text without a value."""
    if not messages:
        return None
    specs = pipeline.pipeline.inputs
    if any(spec.required and name not in inputs and not spec.is_file for name, spec in specs.items()):
        return with_files(messages, files)
    free = next((name for name, spec in specs.items() if spec.format == "text" and name not in inputs), None)
    if free is not None:
        inputs[free] = request_of(with_files(messages, files))
    return None


def _check_inputs(pipeline: LoadedPipeline, inputs: Mapping[str, Any], *, prompted: bool) -> None:
    specs = pipeline.pipeline.inputs
    missing = [name for name, spec in specs.items() if spec.required and name not in inputs]
    taken = next((name for name in missing if not specs[name].is_file), None) if prompted else None
    missing = [name for name in missing if name != taken]
    if missing:
        words = ", ".join(repr(name) for name in missing)
        raise RefusedError(
            f"{pipeline.pipeline.name!r} needs the inputs {words}: give them by name in `fusion.inputs`",
            param=f"fusion.inputs.{missing[0]}",
            code="missing_input",
        )
