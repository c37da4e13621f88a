"""Every error of Fusion, what it means for the run, and how a process that meets it ends.

FusionError                     exit 1, HTTP 500
  UsageError                    exit 2, HTTP 400   the command line, a pipeline, an input, the settings
    PipelineError                                  a pipeline file with Problems, all of them at once
    InputError                                     inputs that are missing, unknown or too long
    PromptError                                    a template or expression that cannot be rendered
    MissingKeyError                                no key and no weights for a model that is needed
    StoreError                                     the store cannot be opened, read or written
    RunBusyError                                   a run that somebody else is running
  ModelError                    exit 3, HTTP 502   one call to a model that did not succeed
    AuthenticationError                            stops: the key is wrong or may not do this
    BadRequestError                                stops: the provider refuses the request itself
    ContextWindowError                             the request is longer than the model can read
      InputTooLongError         exit 2             so long that it was not even sent
    ContentFilterError                             the provider refuses the content
    RateLimitError                                 again later (Retry-After, if the provider gave it)
    ModelTimeoutError                                  again: no answer in time
    ModelConnectionError                           again: unreachable, dropped, 5xx
    BadResponseError                               again: empty, cut off, or not what was asked for
      ShapeError                                   twice not of the shape asked for: no use to ask once more
  StageError                    exit 3, HTTP 502   a stage that could not do its work
  BudgetError                   exit 4, HTTP 402   a limit that would have been passed
  RunFailed                     exit of its cause  a run that ended without its answer; carries the Result
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fusion.core.types import CallKey, Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion.core.result import Result


class FusionError(Exception):
    """The root of the tree. Its message says what went wrong and what to do next."""

    exit_code: int = 1
    http_status: ClassVar[int] = 500
    calls: "tuple[CallKey, ...]" = ()
    """Calls whose replies were whole and could not be used all the same: they are worth asking again."""

    def as_failure(self) -> Failure:
        """The error as a value: its class's name and its message."""
        return Failure(reason=type(self).__name__, message=str(self))


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group, however deep it is nested."""
    first = group.exceptions[0]
    return first_error(first) if isinstance(first, BaseExceptionGroup) else first


class UsageError(FusionError):
    """Something that the user gave cannot be used."""

    exit_code = 2
    http_status = 400


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a pipeline file. Lines and columns count from 1; 0 where the place is unknown."""

    file: str
    line: int
    column: int
    where: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place} {self.where}: {self.message}" if self.where else f"{place}: {self.message}"


class PipelineError(UsageError):
    """A pipeline that cannot run; `problems` holds every mistake that was found."""

    def __init__(self, problems: "Sequence[Problem]") -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(p) for p in self.problems))


class InputError(UsageError):
    """An input that is missing, unknown, unreadable or too long."""


class PromptError(UsageError):
    """A template or an expression that cannot be rendered."""


class MissingKeyError(UsageError):
    """A model has neither a key nor weights. `keys` names the environment variables to set, if that helps."""

    def __init__(self, message: str, *, keys: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


class StoreError(UsageError):
    """The place where runs are kept cannot be opened, read or written."""


class RunBusyError(UsageError):
    """A run that is to be resumed is being run, by this process or another."""


class ModelError(FusionError):
    """A call to a model that did not succeed. `retryable` says whether the same call may succeed later."""

    exit_code = 3
    http_status = 502
    retryable: ClassVar[bool] = False
    stops: ClassVar[bool] = False
    """True where every further call would meet the same: the run ends at once."""

    def __init__(self, message: str, *, model: str = "", retry_after: float | None = None) -> None:
        self.model = model
        self.retry_after = retry_after
        super().__init__(message)


class AuthenticationError(ModelError):
    """The provider does not accept the key, or the key may not use this model."""

    http_status = 401
    stops = True


class BadRequestError(ModelError):
    """The provider refuses the request itself: unknown model, unknown parameter."""

    http_status = 400
    stops = True


class ContextWindowError(ModelError):
    """The request is longer than the model can read."""

    http_status = 413


class InputTooLongError(ContextWindowError):
    """The request is so long that it was not even sent; the message says by how much, and what to do."""

    exit_code = 2


class ContentFilterError(ModelError):
    """The provider refuses the content, or has cut its answer for it."""


class RateLimitError(ModelError):
    """Too many requests; `retry_after` is the provider's own word in seconds, if it gave one."""

    http_status = 429
    retryable = True


class ModelTimeoutError(ModelError):
    """No answer in time. What it cost is unknown to us; the budget counts it in full."""

    http_status = 504
    retryable = True


class ModelConnectionError(ModelError):
    """The provider cannot be reached, dropped the connection, or answered with a fault of its own.

    `answered` says that it had accepted the request and begun to answer, so that it may bill it.
    """

    retryable = True

    def __init__(
        self, message: str, *, model: str = "", retry_after: float | None = None, answered: bool = False
    ) -> None:
        self.answered = answered
        super().__init__(message, model=model, retry_after=retry_after)


class BadResponseError(ModelError):
    """An answer that cannot be used: empty, cut off, without an end, or not of the shape asked for.

    `text` is what came, for those who can use a part of it.
    """

    retryable = True

    def __init__(self, message: str, *, model: str = "", text: str = "", calls: "tuple[CallKey, ...]" = ()) -> None:
        self.text = text
        self.calls = calls
        super().__init__(message, model=model)


class ShapeError(BadResponseError):
    """An answer that has not the shape asked for, also after the model was shown what is wrong with it."""


class StageError(FusionError):
    """A stage could not do its work: too few usable items, no usable plan, out of time."""

    exit_code = 3
    http_status = 502


class BudgetError(FusionError):
    """A limit would have been passed. `limit` names it: usd, tokens, calls or seconds; `level` whose it is."""

    exit_code = 4
    http_status = 402

    def __init__(self, message: str, *, limit: str = "", level: str = "") -> None:
        self.limit = limit
        self.level = level
        super().__init__(message)


class RunFailed(FusionError):  # noqa: N818 - says what happened, as the design names it
    """A run ended without its answer. `result` holds everything that was finished; the cause is chained.

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
    """ "; did you mean 'x'?", or the known names where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(names)}" if names else ""
