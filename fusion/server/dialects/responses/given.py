"""Items of the input of a kept response, as the API lists them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from fusion.core.types import ToolCall
from fusion.server.base import RefusedError
from fusion.server.dialects.responses.functions import Functions
from fusion.server.dialects.responses.kept import KeptResponse
from fusion.server.dialects.responses.response import Json, call_item

_PAGE: Final = 20
_LARGEST_PAGE: Final = 100
_ORDERS: Final = ("asc", "desc")


def listed_input(one: KeptResponse, query: Mapping[str, str]) -> Json:
    """Return a page of the input of a response, latest first. Raises RefusedError for a wrong query."""
    order, limit, after = query.get("order", "desc"), _limit(query.get("limit")), query.get("after")
    if order not in _ORDERS:
        raise RefusedError(f"order: unknown order {order!r}; use asc or desc", param="order")
    items = list(input_items(one.row.run_id, one.messages, one.told.functions))
    if order == "desc":
        items.reverse()
    page, rest = _after(items, after)[:limit], _after(items, after)[limit:]
    ids = [item["id"] for item in page]
    return {
        "object": "list",
        "data": page,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": bool(rest),
    }


def input_items(run_id: str, messages: Sequence[Mapping[str, Any]], functions: Functions) -> Iterator[Json]:
    """Yield the items that messages were read from, in their order."""
    number = 0
    for message in messages:
        for item in _items(message, functions):
            number += 1
            yield {**item, "id": f"in_{run_id}_{number}"}


def _items(message: Mapping[str, Any], functions: Functions) -> Iterator[Json]:
    role, content = message["role"], message.get("content")
    if role == "tool":
        parts = content if isinstance(content, str) else _parts(content, "input_text")
        call_id = message["tool_call_id"]
        yield {"type": "function_call_output", "call_id": call_id, "output": parts, "status": "completed"}
        return
    if content:
        kind = "output_text" if role == "assistant" else "input_text"
        yield {"type": "message", "role": role, "status": "completed", "content": _parts(content, kind)}
    for call in message.get("tool_calls") or ():
        called = ToolCall(id=call["id"], **call["function"])
        yield call_item("", called, functions)


def _parts(content: Any, kind: str) -> list[Json]:
    if isinstance(content, str):
        return [_text(content, kind)]
    return [_part(part, kind) for part in content or ()]


def _part(part: Mapping[str, Any], kind: str) -> Json:
    match part["type"]:
        case "image_url":
            return {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "auto"}
        case "file":
            return {"type": "input_file", **part["file"]}
    return _text(part["text"], kind)


def _text(text: str, kind: str) -> Json:
    more: Json = {"annotations": []} if kind == "output_text" else {}
    return {"type": kind, "text": text, **more}


def _after(items: list[Json], last: str | None) -> list[Json]:
    if last is None:
        return items
    at = next((at for at, item in enumerate(items) if item["id"] == last), None)
    if at is None:
        raise RefusedError(f"after: no item {last!r} in the input of this response", param="after")
    return items[at + 1 :]


def _limit(given: str | None) -> int:
    if given is None:
        return _PAGE
    if not (given.isascii() and given.isdigit() and 1 <= int(given) <= _LARGEST_PAGE):
        raise RefusedError(f"limit: {given!r} is no number from 1 to {_LARGEST_PAGE}", param="limit")
    return int(given)
