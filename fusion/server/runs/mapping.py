"""Mapping: the request of a client becomes the prompt, the inputs and the limits of a run."""

from typing import TypedDict

from fusion.client.options import Prompt
from fusion.core.budget import limits_of, over
from fusion.core.types import Limits
from fusion.pipeline.loader import LoadedPipeline
from fusion.server.catalog import ServedPipeline
from fusion.server.dialects.base import ServedRequest


class Mapped(TypedDict):
    """Options of a run that a request sets."""

    pipeline: LoadedPipeline
    inputs: dict[str, object]
    budget: Limits | None
    tags: dict[str, str]


def prompt_of(request: ServedRequest) -> Prompt:
    """Return the messages of a request as `Fusion.start` takes them; None if it has none."""
    return request.messages or None


def options_of(pipeline: LoadedPipeline, served: ServedPipeline, request: ServedRequest) -> Mapped:
    """Return the options of a run. Raises UsageError for a budget that is none."""
    return Mapped(
        pipeline=pipeline,
        inputs=dict(request.inputs),
        budget=budget_of(pipeline, served, limits_of(request.budget)),
        tags=dict(request.tags),
    )


def budget_of(pipeline: LoadedPipeline, served: ServedPipeline, asked: Limits | None) -> Limits | None:
    """Return the limits of a request: those of the server, which the request may lower; None for the pipeline's."""
    if asked is None:
        return served.budget
    return asked.tighter(over(pipeline.pipeline.budget, served.budget))
