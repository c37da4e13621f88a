"""Responses: reads requests of the API, and writes answers and errors in its shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusion.server.dialects.base import RefusedError, ServedRequest
from fusion.server.dialects.responses.body import ResponsesBody, checked
from fusion.server.dialects.responses.kept import KeptResponses
from fusion.server.dialects.responses.request import answer_of, budget_of, echo_of, ignored_of, tags_of, transcript_of


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was read: `messages` are its own, without instructions and the conversation before it."""

    body: ResponsesBody
    served: ServedRequest
    echo: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]


def read(body: Mapping[str, Any], kept: KeptResponses) -> Asked:
    """Return the request of a body. Raises RefusedError with the field."""
    given = checked(body)
    transcript = transcript_of(given, kept.referred)
    before = [] if given.previous_response_id is None else kept.conversation(given.previous_response_id)
    instructions = [{"role": "system", "content": given.instructions}] if given.instructions else []
    served = ServedRequest(
        model=given.model,
        messages=[*instructions, *before, *transcript.messages],
        answer=answer_of(given),
        inputs=given.fusion.inputs,
        budget=budget_of(given),
        tags=tags_of(given),
        stream=bool(given.stream),
        ignored=ignored_of(given, transcript),
    )
    return Asked(given, served, echo_of(given), transcript.messages)


def refused(error: RefusedError) -> dict[str, Any]:
    """Return the body of an error response."""
    return {"error": {"message": str(error), "type": error.kind, "param": error.param, "code": error.code}}
