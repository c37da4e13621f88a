"""Responses as a dialect."""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from fusion.core.result import Result
from fusion.server.base import RefusedError, ServedRequest, ServedRun
from fusion.server.dialects.fields import fusion_fields
from fusion.server.dialects.openrouter.choice import call_of
from fusion.server.dialects.responses.body import checked
from fusion.server.dialects.responses.kept import KeptResponses, kept_of
from fusion.server.dialects.responses.request import answer_of, echo_of, ignored_of, tags_of, transcript_of
from fusion.server.dialects.responses.response import Json, Told, created_of
from fusion.server.dialects.responses.stream import Streamed, streamed
from fusion.server.runs.said import said_of


class Responses:
    """Responses. https://platform.openai.com/docs/api-reference/responses"""

    def __init__(self, kept: KeptResponses) -> None:
        self._kept = kept

    def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ServedRequest:
        """Return the request of a body, after the conversation that it continues. Raises RefusedError."""
        given, own = checked(body), fusion_fields(body)
        transcript = transcript_of(given, self._kept.referred)
        continues = given.previous_response_id
        before = [] if continues is None else self._kept.conversation(continues)
        instructions = [{"role": "system", "content": given.instructions}] if given.instructions else []
        echo = echo_of(given)
        return ServedRequest(
            model=given.model,
            messages=[*instructions, *before, *transcript.messages],
            answer=answer_of(given),
            inputs=own["inputs"],
            budget=own["budget"],
            tags=tags_of(given, own["tags"]),
            stream=bool(given.stream),
            background=bool(given.background),
            ignored=ignored_of(given, transcript),
            form={"echo": echo},
            kept=kept_of(given.model, echo, transcript.messages, continues),
        )

    def whole(self, run: ServedRun, result: Result, request: ServedRequest) -> Json:
        """Return a `response` of a run that has an answer."""
        call = call_of(request.overrides, self._kept.store, run.run_id)
        before = [] if call is None else [call.item(result)]
        told = told_of(run, request)
        return told.finished(result, [*before, *told.output(result)])

    def stream(self, run: ServedRun, request: ServedRequest) -> AsyncIterator[bytes]:
        """Yield the events of a response."""
        call = call_of(request.overrides, self._kept.store, run.run_id)
        return streamed(Streamed(told_of(run, request), run, call, partial(said_of, self._kept.store, run.run_id)))

    def refused(self, error: RefusedError, run_id: str | None = None) -> Json:
        """Return an error as OpenAI writes it, with the id of its run if there is one."""
        body: Json = {"message": str(error), "type": error.kind, "param": error.param, "code": error.code}
        return {"error": body} if run_id is None else {"error": body, "fusion": {"run": run_id}}


def told_of(run: ServedRun, request: ServedRequest) -> Told:
    """Return the facts of a response that are known at its beginning."""
    return Told(
        run_id=run.run_id, model=run.model, created=created_of(run.run_id, run.created), echo=request.form["echo"]
    )
