"""Base of dialects: a request of any API as one form, a run that answers it, and its errors."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fusion.core.budget import BudgetGiven
from fusion.core.errors import BudgetError, FusionError
from fusion.core.events import EventBase
from fusion.core.params import AnswerOptions
from fusion.core.result import Result
from fusion.core.types import Gate

KEPT: Final = "served"
"""Name of the decision in the store that holds the data that a dialect keeps with a run."""
_KEY: Final = "Idempotency-Key"
WAITING: Final = "waiting_for_person"
"""Code of the error of a run that waits for a person."""
INTERRUPTED: Final = "Interrupted"
"""Reason of a run that was stopped from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRequest:
    """A request of any dialect: the pipeline to run, its inputs, and the form of the answer.

    `model` is the name as sent. `messages` are OpenAI-style chat messages; roles are system, user, assistant and
    tool, and content is a text or a list of parts. A request that ends in messages of role tool continues the run
    that asked for those tools. `continues` is the id of a run whose conversation comes first. `ignored` names fields
    without an effect here.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    answer: AnswerOptions = field(default_factory=AnswerOptions)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    budget: BudgetGiven = None
    tags: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    continues: str | None = None
    ignored: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Options of the shipped pipeline that answers, such as the panel of OpenRouter's Fusion."""
    form: Mapping[str, Any] = field(default_factory=dict)
    """Fields that only the dialect reads again when it writes the answer, such as `include_usage`."""
    background: bool = False
    """True for a run that goes on without its client."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """Data of the dialect to keep with the run, for later requests that name it."""


class ServedRun(Protocol):
    """A run that answers a request. Iterating gives its events from the first one to its end, also when attached.

    The Deltas since the last Restarted are the text of the answer, also of a stage that does not stream. RunFinished
    comes last, once the Result is known.
    """

    run_id: str
    model: str
    """Name under which the pipeline was asked for."""
    pipeline: str
    created: int
    """Start in seconds since 1970."""

    def __aiter__(self) -> AsyncIterator[EventBase]: ...

    async def result(self) -> Result:
        """Return the Result, also of a failed run."""
        ...


class RefusedError(FusionError):
    """A request that is refused before or instead of a run.

    `status` is the HTTP status, `kind` the class of the error in the words of OpenAI (`invalid_request_error`),
    `param` the field, and `code` a short name. With `final`, repeating the request is in vain, and the response
    tells a client so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        final: bool = True,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.final = final
        self.retry_after = retry_after


def refusal_of(result: Result) -> RefusedError | None:
    """Return the error of a run without an answer, None if it has one: 402 if a budget stopped it, else 422.

    A repeated request is in vain, except after a stop from outside: the run then goes on where it was. It is 409 for
    a run that waits for a person: clients send no second request on it unasked.
    """
    if result.status == "waiting":
        message = (
            f"{waiting_words(result)}; once that is answered, the same request with the same {_KEY} has the answer"
        )
        return RefusedError(message, status=409, kind="waiting_for_person", code=WAITING)
    if result.status != "failed":
        return None
    reason, why = ("", "no answer") if result.error is None else (result.error.reason, result.error.message)
    message = f"run {result.run_id} failed: {why}"
    if reason == BudgetError.__name__:
        return RefusedError(message, status=402, kind="insufficient_quota", code=reason)
    if reason == INTERRUPTED:
        return RefusedError(message, status=503, kind="server_error", code=reason, final=False, retry_after=1)
    return RefusedError(message, status=422, kind="run_failed", code=reason or None)


def waiting_words(result: Result) -> str:
    """Say what a run waits for."""
    places = ", ".join(repr(gate.place) for gate in result.waiting)
    return f"run {result.run_id} waits for a person at {places}"


def outcome_of(result: Result) -> dict[str, Any]:
    """Return the field `fusion` of a response: the run, its status, cost, and the parts that are lost."""
    return {
        "run": result.run_id,
        "status": result.status,
        "cost": float(result.cost.usd),
        "unknown_calls": result.cost.unknown_calls,
        **({"waiting": [_gate(gate) for gate in result.waiting]} if result.status == "waiting" else {}),
        "lost": [part.model_dump(mode="json", exclude_none=True) for part in result.lost or result.failed],
    }


def _gate(gate: Gate) -> dict[str, Any]:
    until = None if gate.deadline is None else gate.deadline.isoformat()
    return {"gate": gate.place, "title": gate.title, "who": gate.who, "ask": gate.ask, "deadline": until}


def sse(data: str, event: str | None = None) -> bytes:
    """Return a server-sent event of one line of data."""
    head = "" if event is None else f"event: {event}\n"
    return f"{head}data: {data}\n\n".encode()


class RefusalShape(Protocol):
    """The shape in which a server writes its errors."""

    def refused(self, error: RefusedError, run_id: str | None = None) -> dict[str, Any]:
        """Return the body of an error response."""
        ...


class Dialect(RefusalShape, Protocol):
    """An API: reads requests and writes answers, streams and errors in its own shapes."""

    def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> ServedRequest:
        """Return the request of a body. Raises RefusedError with the field."""
        ...

    def whole(self, run: ServedRun, result: Result, request: ServedRequest) -> dict[str, Any]:
        """Return the body of a response that is not streamed, of a run that has an answer."""
        ...

    def stream(self, run: ServedRun, request: ServedRequest) -> AsyncIterator[bytes]:
        """Yield the server-sent events of a streamed response, an error event in place of a whole end if it fails."""
        ...
