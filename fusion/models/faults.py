"""What a provider's refusal means: from status, headers and words to an error of our tree, without any key in it."""

import json
import re
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from fusion.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ContentFilterError,
    ContextWindowError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
    RateLimitError,
)
from fusion.models.base import ModelInfo
from fusion.models.listening import RefusedInStreamError

if TYPE_CHECKING:
    from fusion.models.exchange import Exchange

__all__ = ["explain", "quotable", "redact", "refused", "retry_after", "too_late"]

_WORDS: Final = 300
_REDACTED: Final = "[key]"
_SHORTEST_KEY: Final = 6
_KEYS: Final = re.compile(
    r"(?i)\bbearer\s+\S+|\b(?:sk|pk|rk|gsk|xai|key|hf|ghp|csk|pplx|r8|nvapi)[-_][\w*.-]{6,}|\bAIza[\w-]{10,}"
)
_TOO_LONG: Final = re.compile(
    r"(?i)context[ _]?(?:window|length|size)|maximum context|prompt is too long|input is too long|too many tokens"
    r"|exceeds? the (?:maximum|available|model'?s?) (?:number of tokens|context|input)"
)
_FILTERED: Final = re.compile(r"(?i)content[ _]?(?:filter|policy|management)|safety system|responsibleai")
_WRAPPING: Final = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception)(?::| -)\s*|LiteLLM:\s*)+")
_NO_KEY: Final = re.compile(
    r"(?i)missing.{0,40}api[ _]?key|api[ _]?key.{0,60}(?:not set|must be set|is required|missing)"
)
_QUOTA: Final = re.compile(r"(?i)insufficient_quota|exceeded your current quota|credit balance is too low")


def explain(
    error: Exception, info: ModelInfo, exchange: "Exchange", *, text: str = "", secrets: Iterable[str] = ()
) -> ModelError:
    """What went wrong with a call: what the connection saw comes before what litellm makes of it.

    `text` is what had come of an answer that did not come to its end.
    """
    status, secrets = exchange.status, tuple(secrets)
    if text:
        return _misread(info, f"its stream broke off: {_words(error)}", text=text, secrets=secrets)
    if exchange.broken is not None:
        answered = status is not None and 200 <= status < 300
        return _unreachable(info, exchange.broken, secrets=secrets, answered=answered)
    if status is None:
        return _unsent(error, info, secrets)
    if not 200 <= status < 300:
        return _told(error, info, exchange.words, secrets) or refused(
            info, status, exchange.words, exchange.headers, secrets=secrets
        )
    if isinstance(error, RefusedInStreamError):
        return refused(info, error.status, str(error), {}, secrets=secrets)
    if isinstance(error, OSError) or _is_of_connection(error):
        return _unreachable(info, error, secrets=secrets, answered=True)
    return _misread(info, _words(error), secrets=secrets)


def quotable(error: Exception, secrets: Iterable[str]) -> Exception | None:
    """The cause to chain: none where it, or what is behind it, holds a key."""
    link: BaseException | None = error
    for _ in range(10):
        if link is None:
            return error
        if redact(str(link), secrets) != str(link):
            return None
        link = link.__cause__ or link.__context__
    return None


def refused(
    info: ModelInfo, status: int, words: str, headers: Mapping[str, str], *, secrets: Iterable[str] = ()
) -> ModelError:
    """The error for an answer with this status, which is not 2xx."""
    said = f"({status}) {_shortened(words, secrets)}".rstrip()
    model = info.id
    if _TOO_LONG.search(words) and status in (400, 413, 422):
        return _too_long(info, said)
    if _FILTERED.search(words) and status in (400, 403, 422):
        return _filtered(info, said)
    if status in (401, 403):
        return AuthenticationError(
            f"{model!r} refuses the key: {said}; check {_key_name(info)} and that it may use this model", model=model
        )
    if status in (408, 504):
        return ModelTimeoutError(f"{model!r} gave up waiting on its side: {said}; try again later", model=model)
    if status == 413:
        return _too_long(info, said)
    if status == 429:
        return _rate_limited(info, said, words, headers)
    if status >= 500:
        return ModelConnectionError(
            f"{model!r} has a fault of its own: {said}; try again, or use another model", model=model
        )
    if 300 <= status < 400:
        return BadRequestError(f"{model!r} answers from another address: {said}; correct the api_base", model=model)
    return BadRequestError(
        f"{model!r} refuses the request: {said}; check the model's id and the parameters of its role", model=model
    )


def _too_long(info: ModelInfo, said: str) -> ContextWindowError:
    return ContextWindowError(
        f"the request is longer than {info.id!r} can read: {said}; shorten the input, split it, or use a model with"
        " a longer context",
        model=info.id,
    )


def _unreachable(
    info: ModelInfo, why: BaseException, *, secrets: Iterable[str] = (), answered: bool = False
) -> ModelConnectionError:
    """The error for a request whose answer never came whole."""
    said = _shortened(str(why) or type(why).__name__, secrets)
    hint = "the local server has stopped" if info.local else "check the network and the api_base, or try again"
    words = f"{info.id!r} cannot be reached, or hung up: {said}; {hint}"
    return ModelConnectionError(words, model=info.id, answered=answered)


def too_late(info: ModelInfo, seconds: float) -> ModelTimeoutError:
    return ModelTimeoutError(
        f"{info.id!r} gave no whole answer within {seconds:g} s: raise the timeout, lower `max_tokens`, or use a"
        " faster model",
        model=info.id,
    )


def _misread(info: ModelInfo, why: str, *, text: str = "", secrets: Iterable[str] = ()) -> BadResponseError:
    """The error for a 2xx answer that is no completion."""
    return BadResponseError(
        f"{info.id!r} did not answer with a completion: {_shortened(why, secrets)}", model=info.id, text=text
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """How many seconds the provider asks us to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.

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
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time()) if given else None
    except ValueError:
        return None


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secrets and without whatever looks like a key."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_KEY:
            text = text.replace(secret, _REDACTED)
    return _KEYS.sub(_REDACTED, text)


def _shortened(words: str, secrets: Iterable[str] = ()) -> str:
    """What a provider said, on one line, at most 300 characters, without keys."""
    said = _WRAPPING.sub("", words).partition("Traceback (most recent call last)")[0]
    line = " ".join(redact(_message(said), secrets).split())
    return line if len(line) <= _WORDS else line[: _WORDS - 1] + "…"


def _told(error: Exception, info: ModelInfo, words: str, secrets: tuple[str, ...]) -> ModelError | None:
    """What litellm knows better than the status: how each provider says that a text is too long, or unwanted."""
    kind = type(error).__name__
    if kind == "ContextWindowExceededError":
        return _too_long(info, _shortened(words, secrets))
    if kind == "ContentPolicyViolationError":
        return _filtered(info, _shortened(words, secrets))
    return None


def _unsent(error: Exception, info: ModelInfo, secrets: tuple[str, ...]) -> ModelError:
    """litellm refused by itself, or reached the provider by other means than our connection."""
    words, model = str(error), info.id
    told = _told(error, info, words, secrets)
    if told is not None:
        return told
    if type(error).__name__ == "UnsupportedParamsError":
        return BadRequestError(
            f"{model!r} does not take a parameter: {_shortened(words, secrets)}; leave it out of the role or stage"
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
    return refused(info, int(status or 500), words, headers, secrets=secrets)


def _filtered(info: ModelInfo, said: str) -> ContentFilterError:
    return ContentFilterError(f"{info.id!r} refuses the content: {said}; change the text", model=info.id)


def _rate_limited(info: ModelInfo, said: str, words: str, headers: Mapping[str, str]) -> ModelError:
    if _QUOTA.search(words):
        return AuthenticationError(
            f"{info.id!r} has no credit left for this key: {said}; add credit, or set another {_key_name(info)}",
            model=info.id,
        )
    wait = retry_after(headers)
    when = "later" if wait is None else f"in {wait:g} s"
    return RateLimitError(
        f"{info.id!r} takes no more requests just now: {said}; try again {when}, or lower `concurrency`",
        model=info.id,
        retry_after=wait,
    )


def _key_name(info: ModelInfo) -> str:
    if info.keys:
        return info.keys[0]
    return "the key" if info.local else f"{info.provider.upper()}_API_KEY"


def _message(words: str) -> str:
    """The sentence meant for people, out of the shapes in which providers wrap it."""
    try:
        found: Any = json.loads(words)
    except ValueError:
        return words
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else json.dumps(found)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_of_connection(error: Exception) -> bool:
    import aiohttp

    return isinstance(error, aiohttp.ClientError)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
