"""Finish reasons of OpenAI's format and of the servers that imitate it."""

from typing import Any, Final, Literal

_MEANT: Final[dict["Finish", tuple[str, ...]]] = {
    "stop": (
        *("stop", "stop_sequence", "stop_token", "eos", "eos_token", "end_turn", "end_of_turn", "end_of_text"),
        *("complete", "completed", "tool_calls", "tool_call", "tool_use", "function_call"),
    ),
    "length": (
        *("length", "length_limit", "max_tokens", "max_length", "max_new_tokens", "max_output_tokens"),
        *("max_completion_tokens", "model_length", "token_limit", "incomplete", "truncated"),
        *("pause_turn", "model_context_window_exceeded", "context_length_exceeded", "context_window_exceeded"),
    ),
    "content_filter": (
        *("content_filter", "content_filtered", "contentfilter", "content_policy", "content_policy_violation"),
        *("refusal", "safety", "recitation", "blocklist", "prohibited_content", "spii", "sensitive", "moderation"),
        *("guardrail_intervened", "guardrail", "image_safety", "blocked", "policy_violation", "error_toxic"),
    ),
}
_READ: Final[dict[str, "Finish"]] = {word: reason for reason, words in _MEANT.items() for word in words}
_WORST: Final = ("stop", "length", "content_filter", "unknown")

Finish = Literal["stop", "length", "content_filter", "unknown"]


def finish_of(given: Any) -> Finish | None:
    """Return the meaning of a finish reason; None if there is none yet, "unknown" for a failure to finish.

    >>> finish_of("MAX_TOKENS")
    'length'
    """
    if given is None or given == "":
        return None
    if not isinstance(given, str):
        return "unknown"
    return _READ.get(given.strip().lower().replace("-", "_").removeprefix("finish_reason_"), "unknown")


def worst(one: Finish | None, other: Finish | None) -> Finish | None:
    """Return the graver of two finish reasons of one reply."""
    found = [reason for reason in (one, other) if reason is not None]
    return max(found, key=_WORST.index, default=None)
