"""Chats as other programs hold them: messages become a prompt or results of tools, a streamed answer its pieces."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fusion.core.errors import BadResponseError, InputError
from fusion.core.result import Result, run_of_call
from fusion.core.types import Message
from fusion.pipeline.inputs.media import turn_of

_ROLES: Final = {"developer": "system", "function": "tool"}


@dataclass(frozen=True, slots=True)
class Spoken:
    """Messages as Fusion takes them: a prompt, or the results of tools that the run `continues` asked for."""

    prompt: Sequence[Mapping[str, Any]] = ()
    continues: str | None = None
    results: Mapping[str, str] = field(default_factory=dict)
    turns: tuple[Message, ...] = ()


def spoken(messages: Sequence[Mapping[str, Any]]) -> Spoken:
    """Return what OpenAI-style messages ask for. Calls of tools of other programs become text.

    Raises InputError for messages that end neither with the user nor with results of tools.
    """
    given = [{**message, "role": _ROLES.get(str(message.get("role")), message.get("role"))} for message in messages]
    last = max((at for at, one in enumerate(given) if one["role"] == "assistant"), default=-1)
    first = next((at for at, one in enumerate(given) if at > last and one["role"] == "tool"), len(given))
    tail = given[first:]
    ids = [str(one.get("tool_call_id") or "") for one in tail if one["role"] == "tool"]
    runs = {run_of_call(one) for one in ids}
    if ids and None not in runs and len(runs) == 1:
        results = {str(one["tool_call_id"]): text_of(one) for one in tail if one["role"] == "tool"}
        turns = tuple(turn_of(at, one) for at, one in enumerate(tail) if one["role"] == "user")
        return Spoken(continues=runs.pop(), results=results, turns=turns)
    return Spoken(prompt=list(_plain(given)))


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message, whose content is a text or parts. Raises InputError for other parts."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    said = [text for text in texts if isinstance(text, str)]
    if len(said) < len(texts):
        raise InputError(f"a message of role {message.get('role')!r} has a part that is no text")
    return "\n\n".join(said)


def _plain(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield messages of system, user and assistant, with calls of tools and their results in words."""
    names: dict[str, str] = {}
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            name = names.get(str(message.get("tool_call_id")), "a tool")
            results.append(f"The result of {name}:\n{text_of(message)}")
            continue
        if results:
            yield {"role": "user", "content": "\n\n".join(results)}
            results = []
        calls = message.get("tool_calls") or ()
        if message["role"] == "assistant" and (calls or message.get("content") is None):
            functions = [call.get("function", {}) for call in calls]
            names |= {str(call.get("id")): str(call.get("function", {}).get("name")) for call in calls}
            said = [f"I call {one.get('name')} with {one.get('arguments')}." for one in functions]
            yield {"role": "assistant", "content": "\n".join([*filter(None, [text_of(message)]), *said])}
        else:
            yield message
    if results:
        yield {"role": "user", "content": "\n\n".join(results)}


class Pieces:
    """Pieces of a streamed answer, for a reader that cannot take words back.

    An answer that begins again has to begin with the same words, or BadResponseError is raised.
    """

    def __init__(self) -> None:
        self._sent = ""
        self._said = ""
        self._restarts = 0

    def new(self, piece: str, restarts: int) -> str:
        """Return what a piece adds, after so many restarts of the answer."""
        if restarts > self._restarts:
            self._restarts, self._said = restarts, ""
        self._said += piece
        if self._sent.startswith(self._said):
            return ""
        return self.rest(self._said)

    def rest(self, text: str) -> str:
        """Return what the whole answer adds."""
        if not text.startswith(self._sent):
            raise BadResponseError("the answer broke off and began again with other words; ask again")
        new, self._sent = text[len(self._sent) :], text
        return new

    @staticmethod
    def whole(result: Result) -> Result:
        """Return the Result of a stream, also of a failed run."""
        return result
