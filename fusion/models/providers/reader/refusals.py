"""Errors within a body of status 200: their status, as the same refusal has it with a status of its own."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

_STATUS_KEYS: Final = ("code", "status", "status_code", "http_status", "http_code", "error_code")
_WORD_KEYS: Final = ("code", "type", "status", "error_type", "name")
_TEXTS: Final = ("message", "msg", "detail", "error_message", "error_msg", "error", "errors", "description", "title")
_MEANT: Final = (
    (402, r"insufficient_(?:quota|credits?|balance|funds)|billing|payment_required|no_credits?"),
    (413, r"context_length|context_window|string_above_max|prompt_too_long|input_too_long|request_too_large"),
    (429, r"rate_?limit|too_many_requests|throttl|resource_exhausted|quota"),
    (401, r"invalid_api_?key|incorrect_api_?key|invalid_key|authentication|unauthenticated|unauthorized|no_auth"),
    (403, r"permission|forbidden|access_denied|access_terminated|content_(?:filter|policy)|moderation"),
    (404, r"not_found|does_not_exist|unknown_model"),
    (504, r"time_?out|timed_out|deadline_exceeded"),
    (529, r"overload"),
    (503, r"unavailable|capacity|engine_busy|server_busy|loading"),
    (
        400,
        r"invalid_request|bad_request|badrequest|invalid_argument|invalid_param|unsupported|validation|unprocessable",
    ),
    (500, r"server_error|internal|api_error|upstream|provider"),
)
_READ: Final = tuple((status, re.compile(words)) for status, words in _MEANT)
_GAPS: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z0-9]+")
_NUMERAL: Final = re.compile(r"\s*([45]\d\d)(?:\.0+)?(?!\d)")
_UNSAID: Final = 500


class RefusedError(Exception):
    """A response with status 200 that carries an error in place of a reply. `status` is the error's own."""

    def __init__(self, words: str, status: int) -> None:
        self.status = status
        super().__init__(words)


def refusal_of(payload: Mapping[str, Any], event: str = "") -> RefusedError | None:
    """Return the error that a payload holds, under `error`, in its first choice or by itself; None if none."""
    for found in (payload.get("error"), _of_choice(payload.get("choices")), _bare(payload, event)):
        if found:
            return RefusedError(json.dumps({"error": found}), status_of(found, payload))
    return None


def words_of(body: Any) -> str | None:
    """Return the message for people out of the JSON in which servers wrap it; None if there is none."""
    if isinstance(body, str):
        return body.strip() or None
    if isinstance(body, list):
        return next((words for words in map(words_of, body[:3]) if words), None)
    if not isinstance(body, dict):
        return None
    found = next((words for words in (words_of(body.get(name)) for name in ("error", *_TEXTS)) if words), None)
    said = body.get("metadata")
    raw = said.get("raw") if isinstance(said, dict) else None
    return f"{found}: {raw}" if found and isinstance(raw, str) else found


def status_of(*errors: Any) -> int:
    """Return the status of an error by its code, a number or in words, else by its message; 500 if it says none."""
    mappings = [error for error in errors if isinstance(error, dict)]
    for error in mappings:
        if (status := next(_statuses(error), None)) is not None:
            return status
    for error in mappings:
        for name in _WORD_KEYS:
            if (status := _meant(error.get(name))) is not None:
                return status
    return _meant(words_of(list(errors))) or _UNSAID


def _statuses(error: dict[str, Any]) -> Iterator[int]:
    for name in _STATUS_KEYS:
        given = error.get(name)
        found = None if isinstance(given, bool) or given is None else _NUMERAL.match(str(given))
        if found:
            yield int(found[1])


def _meant(words: Any) -> int | None:
    if not isinstance(words, str):
        return None
    plain = _GAPS.sub("_", words[:400]).lower()
    return next((status for status, pattern in _READ if pattern.search(plain)), None)


def _of_choice(choices: Any) -> Any:
    first = choices[0] if isinstance(choices, list) and choices else None
    return first.get("error") if isinstance(first, dict) else None


def _bare(payload: Mapping[str, Any], event: str) -> Any:
    """Return the payload itself if it is an error without the key `error`."""
    if payload.get("choices"):
        return None
    names = (event, payload.get("object"), payload.get("type"))
    if any(isinstance(name, str) and name.lower().endswith("error") for name in names):
        return payload
    refuses = payload.get("success") is False or any(_statuses(dict(payload)))
    return payload if refuses and words_of(dict(payload)) else None
