"""Results: the outcome of a run as the result of a tool."""

from collections.abc import Sequence
from typing import Any

from mcp.types import CallToolResult, ContentBlock, TextContent

from fusion.core.result import Result
from fusion.core.types import as_text
from fusion.server.base import outcome_of, waiting_words

META = "fusion"
"""Key of `_meta` that holds the run, its status, cost, and lost parts."""


def result_of(result: Result, *, promised: bool, notes: Sequence[str] = ()) -> CallToolResult:
    """Return the result of a call: the answer, its data if it has any, notes, and a closing line with the cost.

    A run without an answer is an error, and so is one without the data that were `promised`.
    """
    structured = structured_of(result.data)
    failed = result.status in ("failed", "waiting") or (promised and structured is None)
    text = _failure(result) if failed else result.text or as_text(result.data)
    content: list[ContentBlock] = [TextContent(text=part) for part in (text, *notes, closing_line(result)) if part]
    given: dict[str, Any] = {} if failed or structured is None else {"structured_content": structured}
    return CallToolResult(content=content, is_error=failed, _meta={META: outcome_of(result)}, **given)


def refusal(words: str) -> CallToolResult:
    """Return the result of a call without a run: it costs nothing."""
    outcome: dict[str, Any] = {"run": None, "status": "refused", "cost": 0.0, "unknown_calls": 0, "lost": []}
    return CallToolResult(
        content=[TextContent(text=f"{words}\nNo run was started, and nothing was spent.")],
        is_error=True,
        _meta={META: outcome},
    )


def structured_of(data: Any) -> dict[str, Any] | None:
    """Return data as the object that MCP wants; None without any."""
    if data is None:
        return None
    return data if isinstance(data, dict) else {"data": data}


def closing_line(result: Result) -> str:
    """Return the line below an answer: the run, its status, and its cost."""
    lost = len(result.lost or result.failed)
    lacks = f", lacks {_count(lost, 'part')}" if result.status == "partial" and lost else ""
    spent = f"{result.cost}, {_count(result.receipt.calls, 'call')}, {result.seconds:.1f} s"
    return f"[fusion: run {result.run_id} {result.status}{lacks}; {spent}]"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _failure(result: Result) -> str:
    if result.status == "waiting":
        return f"{waiting_words(result)}\n`fusion approve {result.run_id}` answers."
    why = "no answer" if result.error is None else f"{result.error.reason}: {result.error.message}"
    whole = f"The run failed: {why}" if result.status == "failed" else f"The answer lacks its data: {result.text}"
    return f"{whole}\nFinished calls are kept: `fusion resume {result.run_id}` goes on without paying them again."
