"""Errors of providers: from status, headers and body to an error of our tree, with keys masked."""

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fusion.core.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ContentFilterError,
    ContextWindowError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
    OversizedReplyError,
    RateLimitError,
)
from fusion.models.base import ModelInfo, in_words
from fusion.models.providers.reader.events import MalformedError, OversizedError
from fusion.models.providers.reader.refusals import RefusedError, words_of
from fusion.models.redaction import Mask

if TYPE_CHECKING:
    from fusion.models.providers.http.exchange import Exchange


_WORDS: Final = 300
_REDACTED: Final = "[key]"
_LINKS: Final = 10
_KEYS: Final = re.compile(
    r"(?i)\bbearer\s+(?!\[)\S+|\b(?:sk|pk|rk|gsk|xai|key|hf|ghp|csk|pplx|r8|nvapi)[-_][\w*.-]{6,}|\bAIza[\w-]{10,}"
)
_TOO_LONG: Final = re.compile(
    r"(?i)context[ _]?(?:window|length|size)|maximum context|prompt is too long|input is too long|too many tokens"
    r"|exceeds? the (?:maximum|available|model'?s?) (?:number of tokens|context|input)"
)
_FILTERED: Final = re.compile(
    r"(?i)content[ _]?(?:filter|policy|management|moderation)|moderation|safety (?:system|filter|policy)"
    r"|responsibleai|\b(?:was|were|been) flagged|flagged_input|data_inspection"
    r"|inappropriate content|violat\w+ .{0,60}polic"
)
_WRAPPING: Final = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception)(?::| -)\s*|LiteLLM:\s*)+")
_NO_KEY: Final = re.compile(
    r"(?i)missing.{0,40}api[ _]?key|api[ _]?key.{0,60}(?:not set|must be set|is required|missing)"
)
_QUOTA: Final = re.compile(
    r"(?i)insufficient[_ ](?:quota|credits?|balance|funds)|exceeded your current quota|credit balance is too low"
)
_UNSUPPORTED: Final = re.compile(
    r"(?i)unsupported|not supported|unrecogni[sz]ed|unknown|not (?:allowed|permitted|accepted)|extra inputs|instead"
)
_REPLACEABLE: Final = (
    ("max_tokens", "max_completion_tokens"),
    ("max_completion_tokens", "max_tokens"),
    ("stream_options", None),
    ("prompt_cache_key", None),
)
"""Fields that some servers take by another name, or not at all."""
OWN: Final = "here"
"""The region of a server of the user's own."""


class RedactedError(Exception):
    """An exception of a library, with its class and message, and keys masked."""


def model_error(
    error: Exception,
    info: ModelInfo,
    exchange: "Exchange",
    mask: Mask,
    *,
    text: str = "",
    answered: bool = False,
) -> ModelError:
    """Return the error of a failed call; the response itself counts before litellm's exception.

    `text` is the part received of an incomplete reply, `answered` True if the model had begun to write.
    """
    failure = _failure(error, info, exchange, mask, text)
    failure.answered = failure.answered or answered
    return failure


def _failure(error: Exception, info: ModelInfo, exchange: "Exchange", mask: Mask, text: str) -> ModelError:
    status = exchange.status
    if exchange.connection_error is not None:
        return _unreachable(info, exchange.connection_error, mask, sent=exchange.connected)
    if isinstance(error, OversizedError):
        return OversizedReplyError(f"{info.id!r} sent a reply that is too large: {_words(error)}", model=info.id)
    if status is None and not isinstance(error, MalformedError):
        return _unsent(error, info, mask)
    if status is not None and not 200 <= status < 300:
        body = exchange.error_body
        return _classified(error, info, body, mask) or status_error(info, status, body, exchange.headers, mask)
    if isinstance(error, RefusedError):
        return status_error(info, error.status, str(error), exchange.headers, mask, within=True)
    if text:
        failure = _malformed(info, f"its stream broke off: {_words(error)}", mask, text=text)
        failure.outage = True
        return failure
    import aiohttp

    if isinstance(error, (OSError, aiohttp.ClientError)):
        return _unreachable(info, error, mask)
    return _malformed(info, _words(error), mask)


def redacted_chain(error: BaseException | None, mask: Mask, links: int = _LINKS) -> RedactedError | None:
    """Return the exception and its causes with keys masked, since the originals hold the raw response."""
    if error is None or not links:
        return None
    kind = type(error)
    found = RedactedError(f"{kind.__module__}.{kind.__qualname__}: {_redacted(str(error), mask)}")
    found.__cause__ = redacted_chain(error.__cause__ or error.__context__, mask, links - 1)
    return found.with_traceback(error.__traceback__)


def status_error(
    info: ModelInfo, status: int, body: str, headers: Mapping[str, str], mask: Mask, *, within: bool = False
) -> ModelError:
    """Return the error of a response whose status is not 2xx, or of an error `within` a response that is."""
    said = said_of(status, body, mask, within=within)
    failure = _by_words(info, status, body, said) or _by_status(info, status, said)
    failure.retry_after = retry_after(headers)
    if isinstance(failure, RateLimitError) and failure.retry_after is not None:
        failure.args = (failure.args[0].replace("try again later", f"try again {in_words(failure.retry_after)}"),)
    return failure


def said_of(status: int, body: str, mask: Mask, *, within: bool = False) -> str:
    """Return the status and the message of an error response on one line, with keys masked."""
    return f"({status}{' within 200' if within else ''}) {_shortened(body, mask)}".rstrip()


def _by_words(info: ModelInfo, status: int, body: str, said: str) -> ModelError | None:
    """Return the error that the body's words tell better than the status."""
    if _TOO_LONG.search(body) and status in (400, 413, 422):
        return _too_long(info, said)
    if _FILTERED.search(body) and status in (400, 403, 422, 451):
        return _filtered(info, said)
    if status == 402 or (status in (403, 429) and _QUOTA.search(body)):
        return AuthenticationError(
            f"{info.id!r} has no credit left for this key: {said}; add credit, or set another {_key_name(info)}",
            model=info.id,
        )
    return None


def _by_status(info: ModelInfo, status: int, said: str) -> ModelError:
    model = info.id
    if status in (401, 403):
        return _rejected_key(info, said)
    if status in (408, 504):
        return ModelTimeoutError(f"{model!r} timed out on its side: {said}; try again later", model=model)
    if status == 413:
        return _too_long(info, said)
    if status == 429:
        return RateLimitError(
            f"{model!r} has reached its rate limit: {said}; try again later, or lower `concurrency`", model=model
        )
    if status >= 500:
        return ModelConnectionError(
            f"{model!r} has a server error: {said}; try again, or use another model", model=model
        )
    if 300 <= status < 400:
        return BadRequestError(f"{model!r} redirects to another address: {said}; correct the api_base", model=model)
    return BadRequestError(
        f"{model!r} rejects the request: {said}; check the model's id and the parameters of its role", model=model
    )


def _rejected_key(info: ModelInfo, said: str) -> AuthenticationError:
    if info.region == OWN and not info.keys:
        return AuthenticationError(
            f"{info.id!r} asks for a key: {said}; set `key_env` of its endpoint to the variable that holds the key",
            model=info.id,
        )
    return AuthenticationError(
        f"{info.id!r} rejects the key: {said}; check {_key_name(info)} and that it may use this model", model=info.id
    )


class Refused(NamedTuple):
    """A field that a server refuses, and the name that it takes in its place; None if it takes none."""

    field: str
    taken: str | None


def refused_field(exchange: "Exchange") -> Refused | None:
    """Return the field that a server refuses and that a request can do without; None for another refusal."""
    body = exchange.error_body
    if exchange.status not in (400, 422) or not _UNSUPPORTED.search(body):
        return None
    for sent, other in _REPLACEABLE:
        if sent in exchange.sent and other not in exchange.sent and re.search(rf"\b{sent}\b", body):
            return Refused(sent, other)
    return None


def _too_long(info: ModelInfo, said: str) -> ContextWindowError:
    return ContextWindowError(
        f"the request exceeds the context window of {info.id!r}: {said}; shorten the input, split it, or use a model"
        " with a larger one",
        model=info.id,
    )


def _unreachable(info: ModelInfo, why: BaseException, mask: Mask, *, sent: bool = True) -> ModelConnectionError:
    """Return the error of a request without a complete response, which may be billed if it was sent."""
    said = _shortened(str(why) or type(why).__name__, mask)
    hint = "the local server has stopped" if info.local else "check the network and the api_base, or try again"
    message = f"{info.id!r} is unreachable, or dropped the connection: {said}; {hint}"
    return ModelConnectionError(message, model=info.id, answered=sent, sent=sent)


def _malformed(info: ModelInfo, why: str, mask: Mask, *, text: str = "") -> BadResponseError:
    """Return the error of a 2xx response without a completion."""
    return BadResponseError(f"{info.id!r} returned no completion: {_shortened(why, mask)}", model=info.id, text=text)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the Retry-After in seconds: `retry-after-ms`, or `retry-after` in seconds or as a date.

    https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    milliseconds = _number(lower.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    given = lower.get("retry-after")
    seconds = _number(given)
    if seconds is not None:
        return max(0.0, seconds)
    then = _date(given)
    if then is None:
        return None
    now = _date(lower.get("date"))  # the server's own clock, where it gives it
    return max(0.0, then - (time.time() if now is None else now))


def _date(given: str | None) -> float | None:
    try:
        return parsedate_to_datetime(given).timestamp() if given else None
    except (ValueError, OverflowError):
        return None


def _redacted(text: str, mask: Mask) -> str:
    """Mask the known keys in a text, and everything that looks like a key."""
    return _KEYS.sub(_REDACTED, mask.text(text))


def _shortened(words: str, mask: Mask) -> str:
    """Return the message of a provider on one line of at most 300 characters, with keys masked."""
    text = _WRAPPING.sub("", words).partition("Traceback (most recent call last)")[0]
    line = " ".join(_redacted(_message(text), mask).split())
    return line if len(line) <= _WORDS else line[: _WORDS - 1] + "…"


def _classified(error: Exception, info: ModelInfo, words: str, mask: Mask) -> ModelError | None:
    """Return the errors that litellm classifies better than the status: context window, content filter."""
    kind = type(error).__name__
    if kind == "ContextWindowExceededError":
        return _too_long(info, _shortened(words, mask))
    if kind == "ContentPolicyViolationError":
        return _filtered(info, _shortened(words, mask))
    return None


def _unsent(error: Exception, info: ModelInfo, mask: Mask) -> ModelError:
    """Return the error of a call that litellm rejected, or sent by another client than ours."""
    words, model = str(error), info.id
    classified = _classified(error, info, words, mask)
    if classified is not None:
        return classified
    if type(error).__name__ == "UnsupportedParamsError":
        return BadRequestError(
            f"{model!r} does not support a parameter: {_shortened(words, mask)}; leave it out of the role or stage"
            " (reasoning models take no `temperature`)",
            model=model,
        )
    if "LLM Provider NOT provided" in words:
        return BadRequestError(
            f"{model!r} names no provider: write the provider in front, as in 'openai/gpt-5.6'", model=model
        )
    status = getattr(error, "status_code", None)
    if _NO_KEY.search(words):
        status = 401
    elif status is None and isinstance(error, (ValueError, TypeError)):
        status = 400
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return status_error(info, int(status or 500), words, headers, mask)


def _filtered(info: ModelInfo, said: str) -> ContentFilterError:
    return ContentFilterError(
        f"the content filter of {info.id!r} blocked the request: {said}; change the text", model=info.id
    )


def _key_name(info: ModelInfo) -> str:
    if info.keys:
        return info.keys[0]
    return "the key" if info.local else f"{info.provider.upper()}_API_KEY"


def _message(words: str) -> str:
    """Return the message for people, out of the JSON formats in which providers wrap it."""
    try:
        found: Any = json.loads(words)
    except (ValueError, RecursionError):
        return words
    if isinstance(found, dict) and found.keys() == {"error"} and not words_of(found):
        found = found["error"]
    return words_of(found) or (found if isinstance(found, str) else json.dumps(found))


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
