"""One reader: the same bytes mean the same to a request for a whole reply and to one for a stream."""

import json
import re
from typing import Any

import pytest

from fusion.core.errors import BadResponseError, ModelConnectionError
from tests.models.providers.reader.bodies import ask, both, chunk, chunks, event, stream, whole

pytestmark = [
    pytest.mark.usefixtures("closing"),
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning"),
]


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


def call(name: Any, arguments: str) -> dict[str, Any]:
    return {"index": 0, "function": {"name": name, "arguments": arguments}}


CALLS = [call("json_tool_call", "Os"), call(None, "lo")]
OTHER = [call("search", "{}"), call(None, "x")]
SPREAD = ["data: " + json.dumps(one, indent=1).replace("\n", "\ndata: ") + "\n\n" for one in chunks("Os", "lo")]
LEGACY = {"index": 0, "text": "Oslo", "finish_reason": "stop"}
BROKEN = [event(one) for one in chunks("Os", "lo")]
BROKEN[1] = BROKEN[1].replace("data", "dala")
OSLO = {
    "whole": whole(),
    "streamed": stream(chunks("Os", "lo")),
    "no end mark": "".join(map(event, chunks("Os", "lo"))),
    "CRLF": stream(chunks("Os", "lo")).replace("\n", "\r\n"),
    "CR alone": stream(chunks("Os", "lo")).replace("\n", "\r"),
    "single line feeds": stream(chunks("Os", "lo")).replace("\n\n", "\n"),
    "byte order mark": "\ufeff" + stream(chunks("Os", "lo")),
    "byte order mark before JSON": "\ufeff" + json.dumps(whole()),
    "white space before JSON": "\n \r\n" * 30 + json.dumps(whole()),
    "comments": stream([": OPENROUTER PROCESSING\n\n", *chunks("Os", "lo"), ":\n\n"]),
    "empty data": stream(["data:\n\n", "data: \n\n", *chunks("Os", "lo")]),
    "pings": stream(["event: ping\ndata: ping\n\n", "data: null\n\n", "data: {}\n\n", *chunks("Os", "lo")]),
    "ping in JSON": stream(['event: ping\ndata: {"type": "ping"}\n\n', *chunks("Os", "lo")]),
    "ids and retry": stream(["id: 7\nretry: 300\n\n", *chunks("Os", "lo")]),
    "several lines": stream(SPREAD),
    "no space after the colon": stream(chunks("Os", "lo")).replace("data: ", "data:"),
    "a completion as an event": stream([whole()]),
    "the whole message at the end": stream([*chunks("Os", "lo", finish=None), whole()]),
    "content parts": whole([THOUGHT, text("Os"), text("lo")]),
    "content parts streamed": stream(chunks([THOUGHT], [text("Os")], "lo")),
    "a part without a type": whole([{"text": "Oslo"}]),
    "a part as a text": whole(["Os", "lo"]),
    "null, then text": stream(chunks(None, "Oslo", None)),
    "two choices": stream([chunk({"content": "Bergen"}, index=1), *chunks("Os", "lo"), chunk({}, "length", 1)]),
    "two choices whole": {**whole(), "choices": [{**whole("Bergen")["choices"][0], "index": 1}, *whole()["choices"]]},
    "choices without an index": {**whole(), "choices": [{"message": {"content": "Oslo"}, "finish_reason": "stop"}]},
    "a legacy completion": {"choices": [LEGACY], "usage": whole()["usage"]},
    "usage in the choice": {**whole(usage=None), "choices": [{**whole()["choices"][0], "usage": whole()["usage"]}]},
    "usage before the end": stream([chunk({"content": "Oslo"}), {**chunk({}, "stop"), "usage": whole()["usage"]}]),
    "JSON by litellm's tool": whole(None, tool_calls=[call("json_tool_call", "Oslo")]),
    "JSON by litellm's tool, streamed": stream([chunk({"tool_calls": [one]}) for one in CALLS] + chunks("")),
    "another tool": stream([chunk({"tool_calls": [one]}) for one in OTHER] + chunks("Oslo")),
    "null errors": {**whole(), "error": None},
}  # fmt: skip


@pytest.mark.parametrize("body", OSLO.values(), ids=OSLO.keys())
async def test_each_of_these_says_oslo(body: Any) -> None:
    said = (await both(body)).reply
    assert said is not None
    assert (said.text, said.finish_reason, said.usage.source) == ("Oslo", "stop", "measured")
    assert (said.usage.input, said.usage.output) == (9, 5)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
async def test_bytes_may_be_cut_anywhere(size: int) -> None:
    body = stream(chunks("Łódź, ", "Örebro\u2028", "東京 🐢")).replace("\n", "\r\n").encode()
    from fusion.models.providers.reader.events import EventDecoder

    decoder, found = EventDecoder(), []
    for at in range(0, len(body), size):
        found += [payload.data for payload in decoder.feed(body[at : at + size])]
    assert found == chunks("Łódź, ", "Örebro\u2028", "東京 🐢")
    assert decoder.ended


UNFINISHED = ["error", "abort", "network_error", "insufficient_system_resource", "null", "cancelled", 7, {"a": 1}]


@pytest.mark.parametrize("reason", [*UNFINISHED, None, ""])
async def test_an_end_that_is_no_known_one_is_a_failed_attempt(reason: Any) -> None:
    for body in (whole("The first half of the", reason), stream(chunks("The first half", " of the", finish=reason))):
        error = (await both(body)).error
        assert isinstance(error, BadResponseError)
        assert error.retryable
        assert "finish reason" in str(error)


CUT = ["length", "max_tokens", "MAX_TOKENS", "model_length", "incomplete", "max_output_tokens", "token_limit"]
FILTERED = ["content_filter", "CONTENT_FILTER", "SAFETY", "refusal", "guardrail_intervened", "RECITATION"]
STOPPED = ["stop", "STOP", "eos_token", "end_turn", "stop_sequence", "tool_calls", "FINISH_REASON_STOP", "complete"]
MEANT = {"length": CUT, "content_filter": FILTERED, "stop": STOPPED}


@pytest.mark.parametrize(("reason", "meant"), [(one, meant) for meant, some in MEANT.items() for one in some])
async def test_the_ends_of_other_servers_are_known(reason: str, meant: str) -> None:
    for body in (whole("Os", reason), stream(chunks("Os", finish=reason))):
        reply = (await both(body)).reply
        assert reply is not None
        assert reply.finish_reason == meant


@pytest.mark.parametrize(("one", "other"), [("stop", "length"), ("length", "stop"), ("tool_calls", "max_tokens")])
async def test_the_graver_of_two_ends_counts(one: str, other: str) -> None:
    reply = (await both(stream([*chunks("Os", finish=one), chunk({}, other)]))).reply
    assert reply is not None
    assert reply.finish_reason == "length"


NO_REPLY = {
    "hollow": ({"choices": []}, "no choices"),
    "null choices": ({"choices": None, "id": "1"}, "no choices"),
    "another choice only": ({**whole(), "choices": [{**whole()["choices"][0], "index": 1}]}, "no choices"),
    "an empty stream": ("data: [DONE]\n\n", "no choices"),
    "words alone": ({"message": "Model not loaded"}, "Model not loaded"),
    "words in a stream": ('data: {"detail": "Model not loaded"}\n\n', "Model not loaded"),
    "HTML": ("<html>Welcome to the proxy</html>", "Welcome to the proxy"),
    "nothing": ("", "empty"),
    "cut JSON": ('{"choices": [{"message": {"content": "half', r'begins: .\{"choices": \[\{"message"'),
    "cut event": (event(chunk({"content": "a"})) + 'data: {"choices": [{"delta', "malformed JSON"),
    "a list": ([1, 2, 3], "no completion"),
    "a number for a content": (whole(42), "neither text nor a list"),
    "a broken line": (stream(BROKEN), "broken line"),
    "no UTF-8": (b'{"choices": [{"message": {"content": "\xff\xfe"}, "finish_reason": "stop"}]}', "not UTF-8"),
    "nested too deep": ("[" * 200_000, "no completion|nested too deep|malformed"),
    "an unknown part": (whole([{"type": "mystery", "text": "x"}]), "unknown type 'mystery'"),
    "a contradicting end": (stream([*chunks("Os", finish=None), whole("Bergen")]), "contradicts"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "words"), NO_REPLY.values(), ids=NO_REPLY.keys())
async def test_a_body_without_a_reply_says_why(body: Any, words: str) -> None:
    error = (await both(body, max_tokens=9000)).error
    assert isinstance(error, (BadResponseError, ModelConnectionError))
    assert re.search(words, str(error)), str(error)


async def test_a_whole_reply_is_asked_for_in_words() -> None:
    """Some servers stream unless told not to."""
    outcome = await ask(stream(chunks("Os", "lo")), streamed=False)
    assert outcome.reply is not None
    assert outcome.reply.text == "Oslo"


async def test_pieces_that_hold_a_line_separator_are_one_piece() -> None:
    reply = (await both(stream(chunks("a\u2028b\u0085c", "\r\n", "d")))).reply
    assert reply is not None
    assert reply.text == "a\u2028b\u0085c\r\nd"
