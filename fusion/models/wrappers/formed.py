"""Formed: calls of tools over a schema, for models that do not call tools by themselves."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from fusion.core.schema import closed_object
from fusion.core.types import Deltas, JsonSchema, Message, Reply, Request, ToolCall, ToolSpec, Usage
from fusion.models.base import ModelWrapper, check_usable
from fusion.models.structured import complete, form, shaped, with_system
from fusion.models.structured.partial import FieldDeltas, text_of

_TOOL: Final = "tool"
_ARGUMENTS: Final = "arguments"
_ANSWER: Final = "answer"
_ANY: Final[JsonSchema] = {"type": "object"}
_REFERENCE: Final = "$ref"
_ENOUGH: Final = f'If this is enough for the request above, reply with {{"{_ANSWER}": …}} and the answer in words.'
_DEFINITIONS: Final = ("$defs", "definitions")


class Formed(ModelWrapper):
    """A model that says in JSON which tool it wants called, in place of calling tools by itself.

    The reply is held to a schema: the name of a tool with arguments, or an answer. Earlier calls and their results
    become messages of assistant and user. The answer is streamed out of the JSON as it arrives. A reply that misses
    the schema is asked for once more, and its usage counts.
    """

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        turns = tuple(_plain(request.messages))
        if not request.tools or request.tool_choice == "none":
            changes = {"messages": turns, "tools": (), "tool_choice": "auto"}
            return await self.inner.complete(request.model_copy(update=changes), on_delta)
        schema = form_of(request.tools, request.tool_choice, request.json_schema)
        return await self._formed(request, with_system(turns, _words(request)), schema, on_delta)

    async def _formed(
        self, request: Request, messages: Sequence[Message], schema: JsonSchema, on_delta: Deltas | None
    ) -> Reply:
        said, mode = form(schema, self.info)
        changes = {"json_schema": said, "json_mode": mode, "tools": (), "tool_choice": "auto"}
        streamed = None if request.json_schema is not None else on_delta
        deltas = None if streamed is None else FieldDeltas(streamed, _ANSWER)
        replies: list[Reply] = []

        async def send(turns: Sequence[Message]) -> Reply:
            if deltas is not None and replies:
                deltas.restart()
            told = {**changes, "messages": tuple(shaped(turns, schema, mode))}
            replies.append(await self.inner.complete(request.model_copy(update=told), deltas))
            return replies[-1]

        reply, data = await complete(send, messages, schema)
        return check_usable(_read(reply, data, replies, messages))


def form_of(tools: Sequence[ToolSpec], choice: str, answer: JsonSchema | None) -> JsonSchema:
    """Return the schema of a reply: a call of one of the tools, or an answer where the choice allows one.

    >>> form_of([ToolSpec(name="clock")], "required", None)["properties"]["tool"]
    {'const': 'clock'}
    """
    wanted = [tool for tool in tools if choice in ("auto", "required", tool.name)]
    shared: dict[str, Any] = {}
    ways = []
    for tool in wanted:
        arguments = _hoisted(tool.parameters or _ANY, tool.name, shared)
        ways.append(closed_object({_TOOL: {"const": tool.name}, _ARGUMENTS: arguments}))
    if choice == "auto":
        ways.append(closed_object({_ANSWER: _hoisted(answer or {"type": "string"}, _ANSWER, shared)}))
    whole: JsonSchema = ways[0] if len(ways) == 1 else {"anyOf": ways}
    return {**whole, "$defs": shared} if shared else whole


def _hoisted(schema: JsonSchema, name: str, shared: dict[str, Any]) -> JsonSchema:
    """Return a schema as a part of another one, its definitions moved to `shared` under names of their own."""

    def moved(part: Any) -> Any:
        if isinstance(part, list):
            return [moved(one) for one in part]
        if not isinstance(part, dict):
            return part
        return {key: _renamed(one, name) if key == _REFERENCE else moved(one) for key, one in part.items()}

    for group in _DEFINITIONS:
        for key, one in (schema.get(group) or {}).items():
            shared[f"{name}.{key}"] = moved(one)
    own = {key: one for key, one in schema.items() if key not in (*_DEFINITIONS, "$schema")}
    found: JsonSchema = moved(own)
    return found


def _renamed(reference: Any, name: str) -> Any:
    if not isinstance(reference, str):
        return reference
    for group in _DEFINITIONS:
        start = f"#/{group}/"
        if reference.startswith(start):
            return f"#/$defs/{name}.{reference.removeprefix(start)}"
    return reference


def _read(reply: Reply, data: Any, replies: Sequence[Reply], messages: Sequence[Message]) -> Reply:
    """Return the reply with its answer as the text, or its call of a tool, and the usage of all replies."""
    paid: dict[str, Any] = {}
    if len(replies) > 1:
        costs = [one.cost for one in replies]
        paid = {
            "usage": Usage.sum_of(one.usage for one in replies),
            "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
            "latency": sum(one.latency for one in replies),
        }
    if data is None:
        return reply.model_copy(update={**paid, "text": text_of(_ANSWER, reply.text)})
    if _TOOL in data:
        call = ToolCall(
            id=_id(reply.text, messages), name=data[_TOOL], arguments=json.dumps(data[_ARGUMENTS], ensure_ascii=False)
        )
        return reply.model_copy(update={**paid, "text": "", "finish_reason": "tool_calls", "tool_calls": (call,)})
    answer = data[_ANSWER]
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    return reply.model_copy(update={**paid, "text": text})


def _id(text: str, messages: Sequence[Message]) -> str:
    """Return the id of a call: the same for the same conversation, and one of its own within it."""
    said = json.dumps([text, *(message.content for message in messages)])
    return f"call_{hashlib.sha256(said.encode()).hexdigest()[:12]}"


# Messages.


def _plain(messages: Iterable[Message]) -> Iterator[Message]:
    """Yield messages with calls of tools as JSON of the assistant, and their results as one message of the user."""
    names: dict[str, str] = {}
    results: list[str] = []
    for message in messages:
        if message.role == "tool":
            results.append(_result(message, names))
            continue
        if results and message.role == "user":
            before = "\n\n".join([*results, ""])
            files = tuple((at + len(before), file) for at, file in message.files)
            yield Message(role="user", content=before + message.content, files=files)
            results = []
            continue
        if results:
            yield Message(role="user", content="\n\n".join(results))
            results = []
        names |= {call.id: call.name for call in message.tool_calls}
        yield _said(message) if message.tool_calls else message
    if results:
        yield Message(role="user", content="\n\n".join([*results, _ENOUGH]))


def _said(message: Message) -> Message:
    calls = [
        f'{{"{_TOOL}": {json.dumps(call.name)}, "{_ARGUMENTS}": {call.arguments}}}' for call in message.tool_calls
    ]
    return Message(role="assistant", content="\n".join([*filter(None, [message.content]), *calls]))


def _result(message: Message, names: dict[str, str]) -> str:
    name = names.get(message.tool_call_id or "", "the tool")
    mark = hashlib.sha256(message.content.encode()).hexdigest()[:8]
    return f"The result of {name}:\n<result {mark}>\n{message.content}\n</result {mark}>"


def _words(request: Request) -> str:
    """Return the tools and the form of a reply in words."""
    listed = [
        f"- {tool.name}: {tool.description or 'no description'} Arguments: "
        + json.dumps(tool.parameters or _ANY, ensure_ascii=False)
        for tool in request.tools
    ]
    call = f'{{"{_TOOL}": name, "{_ARGUMENTS}": {{…}}}}'
    answer = f'{{"{_ANSWER}": …}}'
    ways = {
        "auto": f"Reply with one JSON object: {call} where a tool gives what is asked for, {answer} where none does.",
        "required": f"Reply with one JSON object that calls the tool you need: {call}.",
    }
    named = f"Reply with one JSON object that calls {request.tool_choice}: {call}."
    return "\n".join(["You can call these tools:", *listed, ways.get(request.tool_choice, named)])
