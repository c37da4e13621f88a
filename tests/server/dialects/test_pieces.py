"""Pieces of an answer: each is sent once, and none is taken back."""

import pytest

from fusion.server.base import RefusedError
from fusion.server.dialects.pieces import AnswerPieces
from tests.server.dialects.runs import GivenRun, answered, failing

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("pieces", "answer", "sent"),
    [
        (["one ", "two"], "one two", ["one ", "two"]),
        ([], "one two", ["one two"]),
        (["one "], "one two", ["one ", "two"]),
        (["one ", None, "o", "ne", " two"], "one two", ["one ", "two"]),
        ([None, "one"], "one", ["one"]),
        (["", "one\n"], "one", ["one\n"]),
        (["one ", None], "one two", ["one ", "two"]),
        ([], "", []),
    ],
    ids=["streamed", "whole", "cut", "again", "again before it began", "stripped", "again at the end", "empty"],
)
async def test_an_answer_is_sent_once(pieces: list[str | None], answer: str, sent: list[str]) -> None:
    got = AnswerPieces(GivenRun(pieces, answered(answer)))
    assert [piece async for piece in got] == sent
    assert got.result.text == answer


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        (["one ", None, "ten ", "two"], "ten two"),
        (["one two", None, "one"], "one"),
        (["one"], "two"),
        (["one ", None, "ONE two"], "ONE two"),
        (["a", None, "b", None, "c"], "c"),
    ],
)
async def test_an_answer_that_begins_otherwise_ends_in_an_error(pieces: list[str | None], answer: str) -> None:
    got: list[str] = []
    with pytest.raises(RefusedError, match=r"run r-1 began again .* Idempotency-Key") as error:
        await drain(AnswerPieces(GivenRun(pieces, answered(answer))), got)
    assert "".join(got) == pieces[0]
    assert (error.value.status, error.value.final) == (502, False)


@pytest.mark.parametrize(
    ("reason", "status", "final"),
    [
        ("BudgetError", 402, True),
        ("StageError", 422, True),
        ("RateLimitError", 422, True),
        ("AuthenticationError", 422, True),
        ("Interrupted", 503, False),
    ],
)
async def test_a_failed_run_is_an_error_behind_its_pieces(reason: str, status: int, final: bool) -> None:
    pieces = AnswerPieces(GivenRun(["one "], failing(reason)))
    got: list[str] = []
    with pytest.raises(RefusedError, match="no such thing") as error:
        await drain(pieces, got)
    assert got == ["one "]
    assert (error.value.status, error.value.final) == (status, final)


async def drain(pieces: AnswerPieces, got: list[str]) -> None:
    async for piece in pieces:
        got.append(piece)
