"""Server: lists pipelines as tools, and runs them for the calls of MCP clients."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.session import ServerSession
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
    Tool,
    ToolAnnotations,
)

from fusion import __version__
from fusion.client.telemetry.caller import within_caller
from fusion.core.errors import FusionError, PipelineError, close_names
from fusion.core.log import LOG
from fusion.core.result import Result
from fusion.core.types import Limits
from fusion.pipeline.inputs.arguments import arguments_schema
from fusion.pipeline.loader import LoadedPipeline
from fusion.server.base import ServedRequest
from fusion.server.catalog import ServedPipeline
from fusion.server.guard.callers import caller_of
from fusion.server.mcp.forms import problems_of, result_schema
from fusion.server.mcp.names import tools_of
from fusion.server.mcp.people import Asking, is_modern, required
from fusion.server.mcp.progress import Progress
from fusion.server.mcp.results import refusal, result_of
from fusion.server.refusals import refused
from fusion.server.runs.runs import AnyRun
from fusion.server.service import Service

Context = ServerRequestContext[Any, Any]

GONE: Final = "gone"
"""Name in the state of an HTTP request: an event that is set once its client is gone."""
_TAGS: Final = {"from": "mcp"}
_USD: Final = Limits(usd=Decimal(1))
"""Limit of a call that neither the settings nor its pipeline limit in dollars."""
_INSTRUCTIONS: Final = (
    "Each tool runs a pipeline of language models, which costs money and takes from seconds to minutes. "
    "The last line of a result names the run and its cost. "
    "Arguments are texts: give the material itself, not the path of a file."
)
_HINTS: Final = ToolAnnotations(destructive_hint=False, idempotent_hint=False, open_world_hint=True)


class Tools:
    """The tools of an MCP server: one for each pipeline of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def server(self) -> Server[Any]:
        """Return the MCP server of these tools."""
        return Server(
            "fusion",
            version=__version__,
            title="Fusion",
            instructions=_INSTRUCTIONS,
            on_list_tools=self.listed,
            on_call_tool=self.call,
            get_tool_input_schema=lambda _: None,  # no argument is sent as a header
        )

    async def listed(self, context: Context, _: PaginatedRequestParams | None) -> ListToolsResult:
        """Return the tools of a caller."""
        caller = _caller(context)
        return ListToolsResult(tools=await asyncio.to_thread(self._all, caller))

    async def call(self, context: Context, params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
        """Run the pipeline of a tool, and return its result; a call that is cancelled stops its run.

        A run that waits for a person asks the one at the client, if the client can. Raises MCPError for a name that
        is no tool.
        """
        caller = _caller(context)
        served = await asyncio.to_thread(self._found, params.name, caller)
        arguments = params.arguments or {}
        try:
            loaded = await asyncio.to_thread(self._service.catalog.load, served)
            problems = await asyncio.to_thread(problems_of, arguments, loaded, most=self._service.table.max_body)
            if problems:
                return refusal("\n".join(problems))
            asking = Asking(self._service, capped(served, loaded), _request(served, arguments), caller)
            with within_caller(_headers(context)):
                run = await asking.begun(params)
        except FusionError as error:
            return refusal(_words(error, context))
        result = await _followed(run, context)
        while result.status == "waiting" and asking.can_ask(context, result):
            if is_modern(context):
                return required(result)
            if (resumed := await asking.asked(context, result)) is None:
                break
            result = await _followed(resumed, context)
        return result_of(result, promised=result_schema(loaded) is not None, notes=asking.notes)

    def _all(self, caller: str | None) -> list[Tool]:
        found = []
        for name, served in tools_of(self._service.catalog.named(caller)).items():
            try:
                found.append(_tool(name, self._service.catalog.load(served)))
            except FusionError as error:
                LOG.warning("pipeline %r is no tool: %s", served.name, error)
        return found

    def _found(self, name: str, caller: str | None) -> ServedPipeline:
        tools = tools_of(self._service.catalog.named(caller))
        if name not in tools:
            raise MCPError(code=INVALID_PARAMS, message=f"no tool {name!r}{close_names(name, tools)}")
        return tools[name]


def capped(served: ServedPipeline, loaded: LoadedPipeline) -> ServedPipeline:
    """Return a pipeline with a limit in dollars: that of the settings, else its own, else one dollar."""
    if served.budget is not None or loaded.pipeline.budget.tighter(served.limits).usd is not None:
        return served
    return ServedPipeline(
        name=served.name,
        pipeline=served.pipeline,
        budget=loaded.pipeline.budget.tighter(_USD),
        limits=served.limits,
        callers=served.callers,
    )


def _tool(name: str, loaded: LoadedPipeline) -> Tool:
    return Tool(
        name=name,
        title=loaded.pipeline.name,
        description=loaded.pipeline.description or f"Runs the pipeline {loaded.pipeline.name}.",
        input_schema=arguments_schema(loaded.pipeline),
        output_schema=result_schema(loaded),
        annotations=_HINTS,
    )


def _request(served: ServedPipeline, arguments: Mapping[str, Any]) -> ServedRequest:
    return ServedRequest(model=served.name, messages=(), inputs=arguments, tags=_TAGS)


async def _followed(run: AnyRun, context: Context) -> Result:
    """Return the Result of a run, whose progress the client hears if it asks for it.

    A call that ends before its run stops the run.
    """
    try:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(_tell(run, context.session))]
            if (gone := _gone(context)) is not None:
                beside.append(group.create_task(_stop_when(gone, run)))
            result = await run.result()
            for task in beside:
                task.cancel()
    finally:
        run.stop()
        run.leave()
    return result


async def _tell(run: AnyRun, session: ServerSession) -> None:
    progress = Progress()
    async with asyncio.TaskGroup() as group:
        group.create_task(_take(run, progress))
        async for step in progress.steps():
            await session.report_progress(step.progress, step.total, step.message)


async def _take(run: AnyRun, progress: Progress) -> None:
    async for event in run:
        progress.take(event)


async def _stop_when(gone: asyncio.Event, run: AnyRun) -> None:
    await gone.wait()
    run.stop()


def _words(error: FusionError, context: Context) -> str:
    """Return what a caller may read of an error: over stdio, where the server is their own, all of it."""
    if context.request is not None:
        return str(refused(error))
    return "\n".join(str(one) for one in error.problems) if isinstance(error, PipelineError) else str(error)


def _gone(context: Context) -> asyncio.Event | None:
    if context.request is None:
        return None
    found: asyncio.Event | None = context.request.scope.get("state", {}).get(GONE)
    return found


def _caller(context: Context) -> str | None:
    return None if context.request is None else caller_of(context.request)


def _headers(context: Context) -> Mapping[str, str]:
    """Return the headers that name the span of a caller: of a request over HTTP, else those of its `_meta`."""
    if context.request is not None:
        headers: Mapping[str, str] = context.request.headers
        return headers
    return {name: str(value) for name, value in (context.meta or {}).items()}
