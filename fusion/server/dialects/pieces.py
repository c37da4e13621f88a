"""Pieces: the text of an answer as it comes from a run, for a stream that cannot take anything back."""

from collections.abc import AsyncIterator

from fusion.core.events import Delta, Restarted
from fusion.core.result import Result
from fusion.server.base import RefusedError, ServedRun, refusal_of


class AnswerPieces:
    """Text of the answer in pieces; afterwards `result` holds the Result.

    If the answer begins again, what was sent already is not sent twice. Raises RefusedError at the end of a run that
    failed, and of one whose answer is another than the pieces sent.
    """

    def __init__(self, run: ServedRun) -> None:
        self._run = run
        self._sent = ""
        self._said = ""
        self.result: Result

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self._run:
            if isinstance(event, Restarted):
                self._said = ""
            elif isinstance(event, Delta) and (piece := self._grown(event.text)):
                yield piece
        self.result = await self._run.result()
        check_answered(self.result)
        if rest := self._rest(self.result.text):
            yield rest

    def _grown(self, text: str) -> str:
        """Return the part of the answer that this text adds to what was sent."""
        self._said += text
        if len(self._said) <= len(self._sent) or not self._said.startswith(self._sent):
            return ""
        piece = self._said[len(self._sent) :]
        self._sent = self._said
        return piece

    def _rest(self, answer: str) -> str:
        if answer.startswith(self._sent):
            return answer[len(self._sent) :]
        if answer.strip() == self._sent.strip():
            return ""
        raise RefusedError(
            f"the answer of run {self._run.run_id} began again after a part of it was sent; send the request again "
            "with the same Idempotency-Key for the whole answer, without another run",
            status=502,
            kind="api_error",
            code="answer_restarted",
            final=False,
        )


def check_answered(result: Result) -> None:
    """Raise RefusedError for a run that failed, as `refusal_of` writes it."""
    if (error := refusal_of(result)) is not None:
        raise error
