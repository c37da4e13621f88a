"""Answers of the Messages API: messages, named events, and errors."""

import json
from typing import Any

import pytest

from fusion.core.types import ToolCall, Usage
from fusion.server.base import RefusedError, ServedRequest
from fusion.server.dialects.messages.dialect import Messages
from tests.server.dialects.runs import GivenRun, answered, failing

pytestmark = pytest.mark.anyio

ASKED = ServedRequest(model="fusion/single", messages=[])
USAGE = Usage(input=10, cached_read=4, cache_write=1, output=3)
TOKENS = {
    "input_tokens": 5,
    "cache_creation_input_tokens": 1,
    "cache_read_input_tokens": 4,
    "output_tokens": 3,
}
CALLS = (
    ToolCall(id="call_r-1_1", name="weather", arguments='{"city": "Oslo"}'),
    ToolCall(id="call_r-1_2", name="now", arguments=""),
)
USES = [
    {"type": "tool_use", "id": "call_r-1_1", "name": "weather", "input": {"city": "Oslo"}},
    {"type": "tool_use", "id": "call_r-1_2", "name": "now", "input": {}},
]
TEXT = {"type": "text", "text": "It is cold."}


@pytest.mark.parametrize(
    ("result", "content", "stop_reason"),
    [
        (answered("It is cold.", finish_reason="stop"), [TEXT], "end_turn"),
        (answered("It is cold.", finish_reason="length"), [TEXT], "max_tokens"),
        (answered("It is cold.", finish_reason="content_filter"), [TEXT], "refusal"),
        (answered("It is cold.", finish_reason="tool_calls", tool_calls=CALLS), [TEXT, *USES], "tool_use"),
        (answered("", finish_reason="tool_calls", tool_calls=CALLS[1:]), USES[1:], "tool_use"),
        (answered("It is cold."), [TEXT], "end_turn"),
    ],
    ids=["end", "limit", "filter", "text and tools", "tool", "no reason"],
)
async def test_a_message_holds_the_answer_and_the_calls_of_tools(result: Any, content: Any, stop_reason: str) -> None:
    result = result.model_copy(update={"usage": USAGE})
    whole = Messages().whole(run := GivenRun([], result), result, ASKED)
    outcome = whole.pop("fusion")
    assert whole == {
        "id": "msg_r-1",
        "type": "message",
        "role": "assistant",
        "model": "fusion/single",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": TOKENS,
    }
    assert (outcome["run"], outcome["status"]) == (run.run_id, "ok")


async def streamed(run: GivenRun) -> list[tuple[str, dict[str, Any]]]:
    raw = b"".join([part async for part in Messages().stream(run, ASKED)]).decode()
    events = [part.split("\n") for part in raw.split("\n\n") if part]
    read = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in events]
    assert all(name == data["type"] for name, data in read)
    return read


async def test_a_stream_names_its_events_and_ends_with_the_usage() -> None:
    result = answered("It is cold.", finish_reason="tool_calls", tool_calls=CALLS, usage=USAGE)
    events = await streamed(GivenRun(["It is ", "cold."], result))
    assert [name for name, _ in events] == [
        "message_start",
        "ping",
        "content_block_start",
        *["content_block_delta"] * 2,
        "content_block_stop",
        *["content_block_start", "content_block_delta", "content_block_stop"] * 2,
        "message_delta",
        "message_stop",
    ]
    start, delta = events[0][1]["message"], events[-2][1]
    assert (start["id"], start["content"], start["usage"]["input_tokens"]) == ("msg_r-1", [], 0)
    assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert delta["usage"] == TOKENS
    deltas = [data["delta"] for name, data in events if name == "content_block_delta"]
    assert [one["text"] for one in deltas[:2]] == ["It is ", "cold."]
    assert [json.loads(one["partial_json"]) for one in deltas[2:]] == [{"city": "Oslo"}, {}]
    blocks = [(data["index"], data["content_block"]) for name, data in events if name == "content_block_start"]
    assert blocks == list(enumerate([{**TEXT, "text": ""}, *({**use, "input": {}} for use in USES)]))


@pytest.mark.parametrize(
    ("pieces", "result", "kind"),
    [
        (["It is "], failing("BudgetError", "the cap"), "billing_error"),
        ([], failing("StageError"), "invalid_request_error"),
        (["It is ", None, "Cold."], answered("Cold."), "api_error"),
    ],
    ids=["budget", "failed", "restarted"],
)
async def test_a_stream_that_fails_ends_in_an_error_event(pieces: Any, result: Any, kind: str) -> None:
    events = await streamed(GivenRun(pieces, result))
    name, last = events[-1]
    assert (name, last["error"]["type"], last["request_id"]) == ("error", kind, "req_r-1")
    assert {"message_delta", "message_stop"}.isdisjoint(name for name, _ in events)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_an_error_has_the_type_of_its_status(status: int, kind: str) -> None:
    body = Messages().refused(RefusedError("no", status=status))
    assert body["type"] == "error"
    assert body["error"] == {"type": kind, "message": "no"}
    assert body["request_id"].startswith("req_")
    assert Messages().refused(RefusedError("no"), "r-1")["request_id"] == "req_r-1"
