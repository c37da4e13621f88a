"""Errors: one tree, with the exit code of a process and the HTTP status of a response for each.

"stops" means that the run ends at once; "retry" means that the same call may succeed later.

FusionError                     exit 1, HTTP 500
  UsageError                    exit 2, HTTP 400   invalid command line, pipeline, input or settings
    PipelineError                                  an invalid pipeline; carries every Problem found
    InputError                                     an input that is missing, unknown or too long
    PromptError                                    a template or expression that cannot be rendered
    MissingKeyError                                a required model has neither a key nor weights
    PolicyError                                    a policy forbids the model
    StoreError                                     the store cannot be opened, read or written
      StoreLostError            exit 3, HTTP 503   the database was lost during a run; the run can be resumed
    RunBusyError                                   the run is locked by another worker
    GateError                                      a gate that is closed already, or an answer that does not fit
    UnfitError                                     a process has other keys, settings or another version than a map
  ModelError                    exit 3, HTTP 502   a call to a model failed
    AuthenticationError                            stops: the key is invalid or lacks permission
    BadRequestError                                stops: the provider rejects the request
      UnrecordedError                              a recording holds no reply to the prompt
      ParameterNameError                           retry: it takes a parameter by another name
    ContextWindowError                             the request exceeds the model's context window
      InputTooLongError         exit 2             detected before sending
    ContentFilterError                             the provider's content filter blocked it
    RateLimitError                                 retry: too many requests (honours Retry-After)
    ModelTimeoutError                              retry: no reply within the timeout
    ModelConnectionError                           retry: unreachable, connection dropped, 5xx
      OutageError                                  not sent: the model is down; stops once patience is over
    BadResponseError                               retry: empty, truncated or malformed reply
      ShapeError                                   the reply violates its schema after one repair
      OversizedReplyError                          the reply is larger than its limit can explain
  FetchError                    exit 3, HTTP 502   a file could not be fetched from its server
  StageError                    exit 3, HTTP 502   a stage failed
  WorkerLostError               exit 3, HTTP 502   the processes that ran a row died
  BudgetError                   exit 4, HTTP 402   a budget limit would be exceeded
  WaitingError                  exit 6, HTTP 409   the run waits for a person, where an answer is needed at once
  RunFailed                     exit of its cause  the run ended without an answer; carries the Result

A run that waits for a person has not failed: its exit code is 6, and its Result says so without an error.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fusion.core.types import CallKey, Failure, GateAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion.core.result import Result


class FusionError(Exception):
    """Root of the error tree. The message states the problem and what to do."""

    exit_code: int = 1
    http_status: ClassVar[int] = 500
    calls: "tuple[CallKey, ...]" = ()
    """Keys of calls with complete but unusable replies; a resumed run repeats them."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the error by its arguments and attributes, whatever its constructor takes."""
        return _remade, (type(self), self.args, self.__dict__)

    def as_failure(self) -> Failure:
        """Return the error as a value: class name and message."""
        return Failure(reason=type(self).__name__, message=str(self))


def _remade(kind: type[FusionError], args: tuple[Any, ...], attributes: dict[str, Any]) -> FusionError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group, however deep it is nested."""
    first = group.exceptions[0]
    return first_error(first) if isinstance(first, BaseExceptionGroup) else first


class UsageError(FusionError):
    """The user's input or configuration is invalid."""

    exit_code = 2
    http_status = 400


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a file of the user. `line` and `column` count from 1; 0 if unknown.

    `where` is the dotted path of the key, such as `stages.work.over`; empty for the whole file.
    """

    file: str
    line: int
    column: int
    where: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place} {self.where}: {self.message}" if self.where else f"{place}: {self.message}"


class PipelineError(UsageError):
    """A pipeline is invalid; `problems` holds every mistake found, in file order."""

    def __init__(self, problems: "Sequence[Problem]") -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(p) for p in self.problems))


class InputError(UsageError):
    """An input is missing, unknown, unreadable or too long."""


class PromptError(UsageError):
    """A template or expression cannot be compiled or rendered."""


class MissingKeyError(UsageError):
    """A required model has neither an API key nor weights. `keys` names the environment variables to set."""

    def __init__(self, message: str, *, keys: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


class PolicyError(UsageError):
    """A policy forbids the model; the message names the file and line of the rule."""


class StoreError(UsageError):
    """The store cannot be opened, read or written."""


class StoreLostError(StoreError):
    """The database of the store was lost during a run, and with it the run's lock. The run can be resumed."""

    exit_code = 3
    http_status = 503


class RunBusyError(UsageError):
    """The run is locked by this process or another one."""


class GateError(UsageError):
    """A gate was answered before, or the answer is not of the form that it asks for.

    `winner` is the answer that came first, if there is one.
    """

    def __init__(self, message: str, *, winner: GateAnswer | None = None) -> None:
        self.winner = winner
        super().__init__(message)


class UnfitError(UsageError):
    """A process cannot run the rows of a map: it has other keys, settings, tools or another version of Fusion."""


class ModelError(FusionError):
    """A call to a model failed.

    `model` is the id of the model. `retry_after` is the provider's Retry-After in seconds, if it sent one. `answered`
    is True if the provider may bill the call: it was sent and lost, or the model had begun to write. `took` is the
    duration of the attempt in seconds, as far as known.
    """

    exit_code = 3
    http_status = 502
    retryable: ClassVar[bool] = False
    """True if the same call may succeed later."""
    stops: bool = False
    """True if every further call would fail alike; the run ends at once."""
    outage: bool = False
    """True if the provider is out of reach, gives no answer in time, or reports a fault of its own."""
    answered: bool = False
    took: float | None = None
    probe: bool = False
    """True if the attempt was the probe of an outage."""

    def __init__(self, message: str, *, model: str = "", retry_after: float | None = None) -> None:
        self.model = model
        self.retry_after = retry_after
        super().__init__(message)


class AuthenticationError(ModelError):
    """The provider rejects the key, or the key lacks permission for this model."""

    http_status = 401
    stops = True


class BadRequestError(ModelError):
    """The provider rejects the request: unknown model or parameter."""

    http_status = 400
    stops = True


class UnrecordedError(BadRequestError):
    """The recording of the model holds no reply to this prompt."""

    stops = False


class ParameterNameError(BadRequestError):
    """The provider takes a parameter by another name, which the next attempt uses."""

    retryable = True
    stops = False


class ContextWindowError(ModelError):
    """The request exceeds the context window of the model."""

    http_status = 413


class InputTooLongError(ContextWindowError):
    """The request exceeds the context window and was not sent; the message states the excess in tokens."""

    exit_code = 2


class ContentFilterError(ModelError):
    """The provider's content filter blocked the request or truncated the reply."""


class RateLimitError(ModelError):
    """The rate limit is exceeded. `retry_after` is the Retry-After in seconds, if any."""

    http_status = 429
    retryable = True


class ModelTimeoutError(ModelError):
    """No complete reply within the timeout. The cost is unknown; the budget charges the whole reservation."""

    http_status = 504
    retryable = True
    outage = True


class ModelConnectionError(ModelError):
    """The provider is unreachable, dropped the connection, or responded with a 5xx status.

    `sent` is False if no connection was made, so that nothing was sent.
    """

    retryable = True
    outage = True

    def __init__(
        self,
        message: str,
        *,
        model: str = "",
        retry_after: float | None = None,
        answered: bool = False,
        sent: bool = True,
    ) -> None:
        self.answered = answered
        self.sent = sent
        super().__init__(message, model=model, retry_after=retry_after)


class OutageError(ModelConnectionError):
    """The model is down, and the call was not sent to it."""

    retryable = False

    def __init__(self, message: str, *, model: str = "", stops: bool = False) -> None:
        self.stops = stops
        super().__init__(message, model=model, sent=False)


class BadResponseError(ModelError):
    """The reply is unusable: empty, truncated, without a finish reason, or malformed.

    `text` is the text received so far.
    """

    retryable = True

    def __init__(self, message: str, *, model: str = "", text: str = "", calls: "tuple[CallKey, ...]" = ()) -> None:
        self.text = text
        self.calls = calls
        super().__init__(message, model=model)


class ShapeError(BadResponseError):
    """The reply violates its schema, even after the model was sent the validation errors."""


class OversizedReplyError(BadResponseError):
    """The reply is larger than the output limit of its request can explain; it was not read to its end."""

    retryable = False


class FetchError(FusionError):
    """A file could not be fetched from its server, or is not the one that was asked for."""

    exit_code = 3
    http_status = 502


class StageError(FusionError):
    """A stage failed: too few usable items, no usable plan, or its timeout has passed."""

    exit_code = 3
    http_status = 502


class WorkerLostError(FusionError):
    """The processes that ran a row died, again and again."""

    exit_code = 3
    http_status = 502


class BudgetError(FusionError):
    """A budget limit would be exceeded.

    `limit` is "usd", "tokens", "calls" or "seconds". `level` names the budget: "run" or a stage's path.
    """

    exit_code = 4
    http_status = 402

    def __init__(self, message: str, *, limit: str = "", level: str = "") -> None:
        self.limit = limit
        self.level = level
        super().__init__(message)


class Waits(Exception):  # noqa: N818 - a signal, not a fault
    """A stage waits for the answer of a person; so do its readers. No handler of failures catches it."""

    exit_code: ClassVar[int] = 6
    """Exit code of a process whose run waits."""


class WaitingError(FusionError):
    """The run waits for a person, where the caller needs an answer at once, as in a plug-in."""

    exit_code = 6
    http_status = 409


class RunFailed(FusionError):  # noqa: N818 - the public name states the outcome
    """A run ended without an answer. `result` holds all finished work; the cause is chained.

    `exit_code` is that of the cause: 3 for a failed call or stage, 4 for a budget stop, 130 for an interrupt.
    """

    http_status = 502

    def __init__(self, message: str, result: "Result", *, exit_code: int = 3) -> None:
        self.result = result
        self.exit_code = exit_code
        super().__init__(message)


def failure_of(error: BaseException) -> Failure:
    """Return an error as a value; one from outside Fusion's tree counts as internal."""
    if isinstance(error, FusionError):
        return error.as_failure()
    return Failure(reason=type(error).__name__, message=str(error) or "internal error")


def close_names(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest name, else "; there are: …", else an empty text."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(names)}" if names else ""
