"""Events of responses, from runs whose answers come whole, in pieces, again, or not at all."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from fusion.core.result import Result
from fusion.core.types import ToolCall
from fusion.server.dialects.responses.pieces import Pieces
from fusion.server.dialects.responses.response import Told
from fusion.server.dialects.responses.stream import Streamed, streamed
from tests.server.dialects.runs import GivenRun, answered, failing

TOLD = Told(run_id=GivenRun.run_id, model="fusion/single", created=GivenRun.created, echo={"tools": []})
TEXT = "A long answer of many words, some of them short and some of them extraordinarily long indeed.\n\nIt ends."


def written(pieces: Sequence[str | None], result: Result, after: int = -1) -> list[dict[str, Any]]:
    async def all_of() -> list[bytes]:
        return [frame async for frame in streamed(Streamed(TOLD, GivenRun(pieces, result)), after=after)]

    return [json.loads(frame.split(b"data: ", 1)[1]) for frame in asyncio.run(all_of())]


def texts(events: Sequence[dict[str, Any]]) -> list[str]:
    """The texts of the messages, as their deltas give them."""
    found: dict[int, str] = {}
    for one in events:
        if one["type"] == "response.output_text.delta":
            found[one["output_index"]] = found.get(one["output_index"], "") + one["delta"]
    return list(found.values())


@pytest.mark.parametrize("size", [1, 2, 7, 40, 1000])
def test_the_pace_of_an_answer_leaves_its_events_as_they_are(size: int) -> None:
    pieces = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
    assert written(pieces, answered(TEXT)) == written([TEXT], answered(TEXT))


@pytest.mark.parametrize("text", ["", " ", "word", "x" * 200, TEXT, "a b " * 50, "日本語のテキスト" * 20, "\n" * 40])
def test_pieces_make_up_the_text(text: str) -> None:
    cut = Pieces()
    found = [*(piece for letter in text for piece in cut.add(letter)), *cut.end()]
    assert "".join(found) == text == cut.text
    assert all(len(piece) <= 48 for piece in found)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([TEXT[:60], None, TEXT], [TEXT]),  # the same words again
        ([TEXT[:60], None, TEXT[:5], TEXT[5:]], [TEXT]),
        (["Another beginning, which is dropped.", None, TEXT], ["Another beginning, ", TEXT]),
        (["Short", None, TEXT], [TEXT]),  # no piece was sent yet
        ([TEXT[:60], None, TEXT[:30], None, TEXT], [TEXT]),
    ],
)
def test_an_answer_that_begins_again(pieces: list[str | None], expected: list[str]) -> None:
    events = written(pieces, answered(TEXT))
    assert texts(events)[-1] == expected[-1]
    assert [text.startswith(want.rstrip()) for text, want in zip(texts(events), expected, strict=True)]
    (message,) = events[-1]["response"]["output"]
    assert message["content"][0]["text"] == TEXT
    ended = [one["item"]["status"] for one in events if one["type"] == "response.output_item.done"]
    assert ended == ["incomplete"] * (len(expected) - 1) + ["completed"]


@pytest.mark.parametrize(
    ("result", "kind", "about"),
    [
        (answered(TEXT), "completed", {}),
        (answered(TEXT, finish_reason="length"), "incomplete", {"reason": "max_output_tokens"}),
        (answered(TEXT, finish_reason="content_filter"), "incomplete", {"reason": "content_filter"}),
        (failing("StageError", "no answer"), "failed", {"code": "invalid_prompt", "message": "no answer"}),
        (failing("BudgetError"), "failed", {"code": "insufficient_quota"}),
        (failing("RateLimitError"), "failed", {"code": "rate_limit_exceeded"}),
        (failing("Interrupted"), "failed", {"code": "server_error"}),
    ],
)
def test_the_last_event_tells_how_a_run_ended(result: Result, kind: str, about: dict[str, str]) -> None:
    last = written([TEXT[:20]], result)[-1]
    assert last["type"] == f"response.{kind}"
    told = last["response"]["incomplete_details"] or last["response"]["error"] or {}
    assert {name: told[name] for name in about} == about


def test_calls_of_tools_follow_the_message() -> None:
    given = {"call_r-1_1": '{"x": 1}', "call_r-1_2": "{}"}
    calls = tuple(ToolCall(id=call_id, name="a", arguments=arguments) for call_id, arguments in given.items())
    events = written([], answered("", tool_calls=calls, finish_reason="tool_calls"))
    assert texts(events) == []
    done = [one["item"] for one in events if one["type"] == "response.output_item.done"]
    assert {one["call_id"]: one["arguments"] for one in done} == given
    assert events[-1]["response"]["output"] == done


@pytest.mark.parametrize(
    "result",
    [
        answered(TEXT),
        answered("", tool_calls=(ToolCall(id="c", name="a", arguments="{}"),)),
        answered(TEXT, finish_reason="length"),
        failing("StageError"),
    ],
)
def test_events_are_those_of_the_sdk(result: Result) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    echo = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    told = Told(run_id="r-1", model="m", created=1, echo=echo)

    async def check() -> None:
        async for frame in streamed(Streamed(told, GivenRun([TEXT] if result.text else [], result))):
            event = adapter.validate_json(frame.split(b"data: ", 1)[1])
            assert event.type.startswith("response.")

    asyncio.run(check())


@pytest.mark.parametrize("after", [0, 1, 3, 5, 9])
def test_events_after_a_number(after: int) -> None:
    whole = written([TEXT], answered(TEXT))
    assert written([TEXT], answered(TEXT), after) == whole[after + 1 :]
