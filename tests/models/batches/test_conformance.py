"""What every batch API does, whichever provider's: rows in, results out, and each way in which a batch can end."""

from contextlib import suppress

import pytest

from fusion import Settings
from fusion.core.errors import (
    AuthenticationError,
    BadRequestError,
    ModelConnectionError,
    ModelError,
    ModelTimeoutError,
    RateLimitError,
)
from fusion.core.types import File, Message, Request
from fusion.models.batches import api
from fusion.models.batches.base import BatchDoor, BatchState, Entry
from fusion.models.gateway import Gateway
from fusion.models.providers.http.session import SESSIONS
from tests.models.batches.conftest import Open, entries, read, request
from tests.models.batches.double import Double
from tests.provider import Answer, Provider

pytestmark = pytest.mark.anyio

MODELS = (
    "openai/gpt-5.6",
    "groq/llama-3.3-70b-versatile",
    "anthropic/claude-haiku-5-5",
    "openrouter/openai/gpt-5.6",
    "gemini/gemini-3.8-flash",
)
UNNAMED = ("anthropic/claude-haiku-5-5", "openrouter/openai/gpt-5.6")
every = pytest.mark.parametrize("model_id", MODELS)


async def submitted(door: BatchDoor, count: int = 20, name: str = "ours") -> tuple[str, list[Entry]]:
    rows = entries(count)
    return await door.submit(rows, name), rows


@every
async def test_every_row_comes_back_once_in_any_order(double: Double, opened: Open, model_id: str) -> None:
    double.set(shuffle=True)
    door = opened(model_id)
    batch_id, rows = await submitted(door, 40)
    state = await door.state(batch_id)
    assert (state.status, state.total, state.done, state.failed) == ("ended", 40, 40, 0)
    found = await read(door, batch_id, rows)
    assert list(found) != [row.custom_id for row in rows]
    assert {custom_id: end.reply.text for custom_id, end in found.items() if end.reply} == {
        f"c{number}": f"echo: row {number}" for number in range(40)
    }
    reply = found["c7"].reply
    assert reply is not None
    assert (reply.asked, reply.usage.input, reply.usage.output, reply.usage.source) == (model_id, 20, 10, "measured")
    assert (reply.latency, reply.first_token) == (0.0, None)
    assert set(double.counts.bodies.values()) == {1}


@every
async def test_only_the_rows_asked_for_are_read(double: Double, opened: Open, model_id: str) -> None:
    door = opened(model_id)
    batch_id, rows = await submitted(door)
    assert set(await read(door, batch_id, rows[3:5])) == {"c3", "c4"}
    assert await read(door, batch_id, ()) == {}


@every
async def test_a_batch_is_open_until_it_ends(double: Double, opened: Open, model_id: str) -> None:
    double.set(polls=2)
    door = opened(model_id)
    batch_id, _ = await submitted(door)
    states = [await door.state(batch_id) for _ in range(3)]
    assert [state.status for state in states] == ["open", "open", "ended"]
    assert [state.total for state in states] == [20, 20, 20]
    assert [state.done for state in states] == [0, 0, 20]


# Endings.


@every
@pytest.mark.parametrize(("share", "answered"), [(0.0, 0), (0.25, 5), (1.0, 20)])
async def test_rows_of_an_expired_batch_are_answered_or_not_worked_on(
    double: Double, opened: Open, model_id: str, share: float, answered: int
) -> None:
    double.set(expire_batches=1, worked=share)
    door = opened(model_id)
    batch_id, rows = await submitted(door)
    assert (await door.state(batch_id)).status == ("ended" if share == 1.0 and "claude" in model_id else "expired")
    found = await read(door, batch_id, rows)
    errors = [end.error for end in found.values() if end.error is not None]
    assert sum(end.reply is not None for end in found.values()) == answered
    assert all(isinstance(error, ModelConnectionError) and not error.sent for error in errors)
    assert sum(double.counts.worked.values()) == answered


@every
async def test_a_cancelled_batch_keeps_what_is_answered(double: Double, opened: Open, model_id: str) -> None:
    double.set(hold=True)
    door = opened(model_id)
    batch_id, rows = await submitted(door)
    assert (await door.state(batch_id)).status == "open"
    await door.cancel(batch_id)
    if model_id.startswith("openrouter/"):  # has no call for that: the batch goes on
        assert (await door.state(batch_id)).status == "open"
        return
    assert (await door.state(batch_id)).status == "cancelled"
    found = await read(door, batch_id, rows)
    assert [end.reply is not None for end in found.values()] == [True] * 10 + [False] * 10
    assert all(not end.error.sent for end in found.values() if isinstance(end.error, ModelConnectionError))


@every
async def test_a_failed_batch_says_why(double: Double, opened: Open, model_id: str) -> None:
    double.set(fail_batches=1)
    door = opened(model_id)
    batch_id, rows = await submitted(door)
    state = await door.state(batch_id)
    if model_id.startswith("anthropic/"):  # its batches end, whatever becomes of their rows
        assert (state.status, state.failed) == ("ended", 20)
    else:
        assert state.status == "failed"
        assert "line 1" in state.message
    assert await read(door, batch_id, rows) == {}


@every
@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, BadRequestError), (429, RateLimitError), (500, ModelConnectionError), (503, ModelConnectionError)],
)
async def test_rows_fail_as_live_calls_do(
    double: Double, opened: Open, model_id: str, status: int, kind: type[ModelError]
) -> None:
    double.set(fail_rows=1.0, row_status=status)
    door = opened(model_id)
    batch_id, rows = await submitted(door, 5)
    assert (await door.state(batch_id)).failed == 5
    found = await read(door, batch_id, rows)
    assert len(found) == 5
    for end in found.values():
        assert type(end.error) is kind
        assert "the row failed" in str(end.error)
        assert getattr(end.error, "sent", True)


@every
async def test_lost_rows_are_missing_and_others_are_not(double: Double, opened: Open, model_id: str) -> None:
    double.set(lose=0.3, shuffle=True)
    door = opened(model_id)
    batch_id, rows = await submitted(door, 50)
    found = await read(door, batch_id, rows)
    assert 5 < len(found) < 45
    assert all(end.reply is not None for end in found.values())


@every
async def test_broken_lines_cost_their_own_row_only(double: Double, opened: Open, model_id: str) -> None:
    double.set(malformed=0.3)
    door = opened(model_id)
    batch_id, rows = await submitted(door, 50)
    found = await read(door, batch_id, rows)
    assert 5 < len(found) < 45
    assert all(end.reply is not None for end in found.values())


BY_FILE = tuple(model_id for model_id in MODELS if not model_id.startswith("openrouter/"))
by_file = pytest.mark.parametrize("model_id", BY_FILE)


@by_file
async def test_a_file_that_ends_within_a_line_lacks_one_row(double: Double, opened: Open, model_id: str) -> None:
    double.set(truncate=True)
    door = opened(model_id)
    batch_id, rows = await submitted(door)
    assert len(await read(door, batch_id, rows)) == 19


@by_file
async def test_a_download_that_breaks_off_is_read_again(double: Double, opened: Open, model_id: str) -> None:
    double.set(break_off=1)
    door = opened(model_id)
    batch_id, rows = await submitted(door, 60)
    with pytest.raises(ModelConnectionError):
        await read(door, batch_id, rows)
    assert len(await read(door, batch_id, rows)) == 60
    assert set(double.counts.bodies.values()) == {1}


# Names.


@every
async def test_a_batch_is_found_by_its_name(double: Double, opened: Open, model_id: str) -> None:
    door = opened(model_id)
    ids = {name: (await submitted(door, name=name))[0] for name in ("one", "two", "three")}
    for name, batch_id in ids.items():
        assert await door.find(name, ["c1", "c2"]) == batch_id
    assert await door.find("four", ["c1"]) is None


@every
async def test_a_batch_whose_submission_had_no_answer_is_found(double: Double, opened: Open, model_id: str) -> None:
    double.set(forget={"create": 1})
    door, rows = opened(model_id), entries(8)
    with pytest.raises(ModelConnectionError) as failed:
        await door.submit(rows, "lost")
    assert failed.value.sent
    batch_id = await door.find("lost", [row.custom_id for row in rows])
    assert batch_id is not None
    assert len(await read(door, batch_id, rows)) == 8
    assert double.counts.batches == 1


@every
async def test_a_later_process_finds_a_batch_on_a_further_page(double: Double, opened: Open, model_id: str) -> None:
    wanted, rows = await submitted(opened(model_id), 10, "first")
    for number in range(5):
        await submitted(opened(model_id), 10, f"later {number}")
    double.set(page=2)
    later = Gateway(Settings.from_environment()).batch_door(model_id)
    assert later is not None
    assert await later.find("first", ["c0", "c1"]) == wanted
    assert await later.find("never", ["c0"]) is None
    assert len(await read(later, wanted, rows)) == 10


@pytest.mark.parametrize("model_id", UNNAMED)
async def test_an_open_batch_without_a_name_is_undecided(double: Double, opened: Open, model_id: str) -> None:
    double.set(hold=True, forget={"create": 1})
    door, rows = opened(model_id), entries(8)
    with pytest.raises(ModelConnectionError):
        await door.submit(rows, "lost")
    assert await door.find("lost", [f"c{number}" for number in range(9)]) is None  # no open batch has nine rows
    with pytest.raises(ModelConnectionError, match="open batches") as undecided:
        await door.find("lost", [row.custom_id for row in rows])
    assert undecided.value.retry_after == 60.0
    double.set(hold=False)
    assert await door.find("lost", [row.custom_id for row in rows]) is not None


@pytest.mark.parametrize("model_id", UNNAMED)
async def test_own_open_batches_leave_nothing_undecided(double: Double, opened: Open, model_id: str) -> None:
    double.set(hold=True)
    door = opened(model_id)
    batch_id, _ = await submitted(door, name="ours")
    assert await door.find("ours", ["c1"]) == batch_id
    assert await door.find("other", ["c1"]) is None


# Calls that fail.


CALLS = ("upload", "create", "state", "list", "results", "cancel")


async def asked(door: BatchDoor, call: str, batch_id: str, rows: list[Entry]) -> object:
    """Make one call of a kind; where an API has none of that kind, the one that comes in its place."""
    match call:
        case "upload" | "create":
            return await door.submit(rows, "again")
        case "state":
            return await door.state(batch_id)
        case "list":
            return await door.find("nothing", ["c1"])
        case "results":
            return await read(door, batch_id, rows)
    return await door.cancel(batch_id)


def kinds_of(model_id: str) -> tuple[str, ...]:
    if model_id.startswith("openrouter/"):
        return "create", "state", "list"
    return tuple(call for call in CALLS if call != "upload" or not model_id.startswith("anthropic/"))


FAULTS = [
    (401, AuthenticationError, "rejects the key"),
    (429, RateLimitError, "rate limit"),
    (400, BadRequestError, "the batch API of"),
    (413, BadRequestError, "the batch API of"),
    (404, ModelError, "no batch API"),
    (500, ModelConnectionError, "server error"),
    (504, ModelTimeoutError, "timed out"),
]


@every
@pytest.mark.parametrize(("status", "kind", "words"), FAULTS, ids=[str(fault[0]) for fault in FAULTS])
async def test_a_refused_call_says_why(
    double: Double, opened: Open, model_id: str, status: int, kind: type[ModelError], words: str
) -> None:
    door = opened(model_id)
    batch_id, rows = await submitted(door, 3)
    for call in kinds_of(model_id):
        double.set(refuse={call: [status]}, retry_after=7.0)
        with pytest.raises(ModelError, match=words) as failed:
            await asked(door, call, batch_id, rows)
        expected = kind
        if call == "upload" and status in (500, 504):
            expected = ModelConnectionError
        elif call == "create" and kind is BadRequestError and "upload" in kinds_of(model_id):
            expected = ModelError  # rows that are uploaded are looked at later
        assert type(failed.value) is expected
        if status == 429:
            assert failed.value.retry_after == 7.0
        if isinstance(failed.value, ModelConnectionError):
            assert failed.value.sent is (call != "upload")  # without its file, a batch does not exist
        await asked(door, call, batch_id, rows)  # once only: the next call is answered


@every
async def test_no_error_shows_the_key(
    double: Double, opened: Open, model_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI", "GROQ", "ANTHROPIC", "OPENROUTER", "GEMINI"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-secret-of-mine-77")
    door = opened(model_id)
    double.set(key="another")
    with pytest.raises(AuthenticationError) as failed:  # whose body repeats the key
        await submitted(door)
    assert "sk-secret" not in repr(failed.value)
    assert "sk-secret" not in repr(failed.value.__cause__)


@every
async def test_a_server_out_of_reach_has_no_batch(
    double: Double, opened: Open, model_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in double.env:
        if not name.endswith("_KEY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9/v1")
    door = opened(model_id)
    with pytest.raises(ModelConnectionError) as failed:
        await submitted(door)
    assert not failed.value.sent


@every
@pytest.mark.parametrize("call", ["create", "state"])
async def test_a_call_without_answer_ends(
    double: Double, opened: Open, model_id: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = opened(model_id)
    batch_id, rows = await submitted(door)
    monkeypatch.setattr(api, "_SECONDS", 0.1)
    double.set(hang=(call,))
    with pytest.raises(ModelTimeoutError, match="no answer in time"):
        await asked(door, call, batch_id, rows)


@every
async def test_an_unknown_batch_is_an_error(double: Double, opened: Open, model_id: str) -> None:
    door = opened(model_id)
    with pytest.raises(ModelError, match=r"no such batch.*404"):
        await door.state("batches/batch_9" if model_id.startswith("gemini/") else "batch_9")


ODD = {
    "nothing": b"",
    "null": b"null",
    "a text": b'"hello"',
    "a list": b"[1, {}]",
    "no JSON": b"<html>busy</html>",
    "empty": b"{}",
    "other types": b'{"id": 7, "name": {}, "status": 7, "data": [1, null, {}, {"id": null}], "has_more": true}',
    "wrong types": b'{"request_counts": 3, "errors": "x", "results": {"a": 1}, "operations": {"a": 1}}',
    "one page": b'{"data": [{"id": "a"}], "has_more": true, "last_id": "a", "nextPageToken": "a"}',
    "no counts": b'{"data": [{"id": "a", "request_counts": {"total": "x", "succeeded": -1}}], "results": [null, {}]}',
    "deep": b"[" * 100_000,
}


@every
@pytest.mark.parametrize("body", ODD.values(), ids=list(ODD))
async def test_odd_answers_are_no_faults_of_ours(
    double: Double, model_id: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Provider(Answer(body=body)) as provider:
        for name in double.env:
            if not name.endswith("_KEY"):
                monkeypatch.setenv(name, provider.url)
        door = Gateway(Settings.from_environment()).batch_door(model_id)
        assert door is not None
        for call in ("create", "state", "list", "results", "cancel"):
            with suppress(ModelError):
                found = await asked(door, call, "batch_1", entries(2))
                assert found in (None, {}, BatchState(status="open"))
        await SESSIONS.close()


# Limits.


@every
async def test_a_row_has_the_size_that_is_said(double: Double, opened: Open, model_id: str) -> None:
    door = opened(model_id)
    texts = ("plain", "ümlaut 😀 中文", "x" * 5000, 'quotes " and \\ and \n lines', "\u2028 \u2029 \x85 \x00 end")
    rows = [Entry(f"c{number}", request(text)) for number, text in enumerate(texts)]
    sizes = [door.size(row) for row in rows]
    batch_id = await door.submit(rows, "sizes")
    found = await read(door, batch_id, rows)
    assert [end.reply.text for end in found.values() if end.reply] == [f"echo: {text}" for text in texts]
    sent = sum(len(row.said.encode()) for row in double.books.batches[batch_id.removeprefix("batches/")].rows)
    assert sum(sizes) > sent
    if not model_id.startswith("gemini/"):
        assert sizes[2] - sizes[0] == 4995


@every
@pytest.mark.parametrize("case", ["too many", "too large", "none", "twice"])
async def test_a_batch_beyond_the_limits_is_not_sent(
    double: Double, opened: Open, model_id: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = opened(model_id)
    rows = {"none": [], "twice": [*entries(3), *entries(1)]}.get(case, entries(6))
    size = sum(map(door.size, rows)) if not model_id.startswith("gemini/") else 1_000
    monkeypatch.setattr(type(door), "most_rows", 5 if case == "too many" else 10)
    monkeypatch.setattr(type(door), "most_bytes", size - 300 if case == "too large" else size * 10)
    with pytest.raises(BadRequestError, match=r"a batch for .* has"):
        await door.submit(rows, "wrong")
    assert double.counts.batches == 0


@every
async def test_a_batch_at_the_limits_is_sent(
    double: Double, opened: Open, model_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, rows = opened(model_id), entries(6)
    monkeypatch.setattr(type(door), "most_rows", 6)
    monkeypatch.setattr(type(door), "most_bytes", sum(map(door.size, rows)))
    assert len(await read(door, await door.submit(rows, "full"), rows)) == 6


LIMITS: dict[str, tuple[int, int]] = {
    "openai/gpt-5.6": (50_000, 200_000_000),
    "groq/llama-3.3-70b-versatile": (50_000, 200_000_000),
    "anthropic/claude-haiku-5-5": (100_000, 256_000_000),
    "openrouter/openai/gpt-5.6": (5_000, 200_000_000),
    "gemini/gemini-3.8-flash": (50_000, 2_000_000_000),
}


@every
async def test_the_limits_are_those_of_the_provider(double: Double, opened: Open, model_id: str) -> None:
    door, (rows, size) = opened(model_id), LIMITS[model_id]
    assert door.most_rows == rows
    assert size - 1_000 <= door.most_bytes <= size


# What a batch does not take.


async def test_openrouter_leaves_files_and_strange_routing_to_live_calls(double: Double, opened: Open) -> None:
    door = opened("openrouter/openai/gpt-5.6")
    file = File(media_type="image/png", data=b"\x89PNG")
    with_file = Request(messages=(Message(role="user", content="look", files=((0, file),)),), max_tokens=10)
    assert door.takes(request("plain"))
    assert door.takes(request("x", extra={"provider": {"only": ["openai"], "allow_fallbacks": False}}))
    assert not door.takes(with_file)
    assert not door.takes(request("x", extra={"provider": {"data_collection": "deny"}}))
    assert not door.takes(request("x", extra={"provider": "openai"}))
    assert opened("openai/gpt-5.6").takes(with_file)


async def test_openrouter_has_one_routing_for_a_batch(double: Double, opened: Open) -> None:
    door = opened("openrouter/openai/gpt-5.6")
    only = [Entry(f"c{number}", request("x", extra={"provider": {"only": ["openai"]}})) for number in range(2)]
    batch_id = await door.submit(only, "one")
    assert double.books.batches[batch_id].name == '{"only": ["openai"]}'
    with pytest.raises(BadRequestError, match="several preferences"):
        await door.submit([*only, Entry("c2", request("x"))], "two")


async def test_openrouter_reports_the_cost_of_a_row(double: Double, opened: Open) -> None:
    door = opened("openrouter/openai/gpt-5.6")
    batch_id, rows = await submitted(door, 2)
    found = await read(door, batch_id, rows)
    assert [str(end.reply.cost) for end in found.values() if end.reply] == ["0.0001", "0.0001"]
    other = opened("openai/gpt-5.6")
    batch_id, rows = await submitted(other, 2)
    assert [end.reply.cost for end in (await read(other, batch_id, rows)).values() if end.reply] == [None, None]
