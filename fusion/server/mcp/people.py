"""People: gates of a run, put to the person at the MCP client.

A client with a back channel is asked while the call goes on. By the protocol of 2026, which has none, the result of
the call asks, and the call comes again with the answers.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.types import (
    CallToolRequestParams,
    ClientCapabilities,
    ElicitationCapability,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from fusion.core.errors import UsageError
from fusion.core.result import Result
from fusion.core.types import Gate
from fusion.server.base import RefusedError, ServedRequest
from fusion.server.catalog import ServedPipeline
from fusion.server.runs.runs import CALLER, AnyRun
from fusion.server.service import Service
from fusion.store.gates import open_gates
from fusion.store.rows import RunRow

Context = ServerRequestContext[Any, Any]

_CAN: Final = ClientCapabilities(elicitation=ElicitationCapability())
_CLIENT: Final = "mcp client"
_YES: Final = {"type": "boolean", "title": "Approve", "description": "Yes, go on; no, reject.", "default": True}
_TEXT: Final = {"type": "string", "title": "Text", "description": "Another text in place of the one that is shown."}
_REASON: Final = {"type": "string", "title": "Reason", "description": "Why not, if you reject it."}
_PLAIN: Final = ("string", "number", "integer", "boolean")


class Asking:
    """Questions of the run of a call, and their answers. `notes` has what a client is told beside the result."""

    def __init__(self, service: Service, served: ServedPipeline, request: ServedRequest, caller: str | None) -> None:
        self.notes: list[str] = []
        self._service = service
        self._served = served
        self._request = request
        self._caller = caller

    async def begun(self, params: CallToolRequestParams) -> AnyRun:
        """Return the run of a call: a new one, or the one that its answers go on with. Raises RefusedError."""
        if params.request_state is None:
            return await self._service.runs.begin(self._served, self._request, caller=self._caller)
        row = await asyncio.to_thread(self._row, params.request_state)
        given = (params.input_responses or {}).items()
        forms = {place: said for place, said in given if isinstance(said, ElicitResult)}
        for gate in await asyncio.to_thread(open_gates, self._service.fusion.store, row.run_id):
            if gate.place in forms:
                await self._record(row.run_id, gate, forms[gate.place])
        return await self._resumed(row.run_id)

    def can_ask(self, context: Context, result: Result) -> bool:
        """Return True if the client can put a question of a run to a person, and has not failed to do so."""
        return not self.notes and context.session.check_client_capability(_CAN) and bool(asked_of(result))

    async def asked(self, context: Context, result: Result) -> AnyRun | None:
        """Ask the person at the client; return the run that goes on, None without an answer."""
        forms, answered = asked_of(result), False
        for gate in result.waiting:
            if gate.place in forms:
                form = forms[gate.place]
                said = await context.session.elicit_form(form.message, form.requested_schema, context.request_id)
                answered |= await self._record(result.run_id, gate, said)
        return await self._resumed(result.run_id) if answered else None

    async def _record(self, run_id: str, gate: Gate, said: ElicitResult) -> bool:
        """Record an answer; return False, and note why, if there is none that fits."""
        given = answer_in(gate, said)
        if given is None:
            self.notes.append(f"No answer was given to {gate.place!r}.")
            return False
        try:
            by = self._caller or _CLIENT
            await asyncio.to_thread(self._service.people.answer, run_id, given, by=by, via="http")
        except RefusedError as error:
            self.notes.append(str(error))
            return False
        return True

    async def _resumed(self, run_id: str) -> AnyRun:
        run = await self._service.runs.resume(run_id, self._served, self._request)
        if run is None:
            raise UsageError(f"run {run_id!r} cannot go on: its prompts were not kept")
        return run

    def _row(self, run_id: str) -> RunRow:
        """Return the run of an earlier call of this caller, of the same tool. Raises UsageError."""
        store = self._service.fusion.store
        store.flush()
        row = store.run(run_id)
        if row is None or row.tags.get(CALLER) != self._caller or row.tags.get("from") != "mcp":
            raise UsageError(f"no call waits as {run_id[:80]!r}")
        return row


def is_modern(context: Context) -> bool:
    """Return True for the protocol of 2026, which has no back channel."""
    return context.session.protocol_version in MODERN_PROTOCOL_VERSIONS


def asked_of(result: Result) -> dict[str, ElicitRequestFormParams]:
    """Return the forms of the open gates of a run, by place; those whose answer fits no form are left out."""
    forms = {gate.place: _form(gate) for gate in result.waiting}
    return {place: form for place, form in forms.items() if form is not None}


def required(result: Result) -> InputRequiredResult:
    """Return the result of a call that waits for a person, by the protocol without a back channel."""
    requests: dict[str, Any] = {place: ElicitRequest(params=form) for place, form in asked_of(result).items()}
    return InputRequiredResult(input_requests=requests, request_state=result.run_id)


def answer_in(gate: Gate, said: ElicitResult) -> Mapping[str, Any] | None:
    """Return the answer in a form that came back; None if the person gave none."""
    if said.action == "cancel":
        return None
    content = dict(said.content or {})
    if said.action == "decline" or content.pop("yes", True) is False:
        return {"gate": gate.place, "yes": False, "text": content.get("reason") or None}
    if gate.ask == "data":
        return {"gate": gate.place, "data": content}
    text = content.get("text") if gate.ask == "edit" else None
    return {"gate": gate.place, "text": None if text in (None, "", gate.text) else text}


def _form(gate: Gate) -> ElicitRequestFormParams | None:
    head = f"{gate.title or gate.place}{f' ({gate.who})' if gate.who else ''}"
    schema = _schema(gate)
    if schema is None:
        return None
    return ElicitRequestFormParams(message=f"{head}\n\n{gate.text}", requested_schema=schema)


def _schema(gate: Gate) -> dict[str, Any] | None:
    """Return the schema of a form; None for data that are no flat object."""
    if gate.ask != "data":
        more = {"text": {**_TEXT, "default": gate.text}} if gate.ask == "edit" else {}
        return {"type": "object", "properties": {"yes": _YES, **more, "reason": _REASON}, "required": ["yes"]}
    given = gate.json_schema or {}
    properties = {name: _field(one) for name, one in (given.get("properties") or {}).items()}
    if given.get("type") != "object" or not properties or None in properties.values():
        return None
    return {"type": "object", "properties": properties, "required": given.get("required", [])}


def _field(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the schema of a field of a form; None for a value that no field holds."""
    kinds = schema.get("type", "string" if "enum" in schema else None)
    kept = [one for one in ([kinds] if isinstance(kinds, str) else kinds or []) if one != "null"]
    if len(kept) != 1 or kept[0] not in _PLAIN:
        return None
    options = [one for one in schema["enum"] if one is not None] if "enum" in schema else None
    return {**schema, "type": kept[0], **({} if options is None else {"enum": options})}
