"""Choice: the pipeline that answers a request, with the panel that it asks for."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request

from fusion.core.result import Result
from fusion.server.base import ServedRequest
from fusion.server.catalog import ServedPipeline
from fusion.server.dialects.openrouter.body import AskedPanel, asked_panel
from fusion.server.dialects.openrouter.call import FusionCall
from fusion.server.dialects.openrouter.names import TOOL
from fusion.server.dialects.openrouter.panel import Panels, Plan
from fusion.server.guard.callers import caller_of
from fusion.server.service import Service
from fusion.store.base import Store

PANEL: Final = "panel"
"""Name of the plan of a panel among the overrides and the kept data of a request."""
_PLUGINS: Final = "plugins"


async def chosen(
    service: Service, request: Request, asked: ServedRequest, body: Mapping[str, Any]
) -> tuple[ServedPipeline, ServedRequest]:
    """Return the pipeline of a request, and the request with its panel. Raises RefusedError."""
    panel, caller = asked_panel(body, request.headers), caller_of(request)
    if panel is None:
        return service.catalog.find(asked.model, caller), asked
    served, plan = await asyncio.to_thread(Panels(service.fusion, service.catalog).plan, panel, caller)
    data = {PANEL: plan.data()}
    return served, replace(
        asked, model=plan.model, overrides=data, kept={**asked.kept, **data}, ignored=_ignored(asked, panel)
    )


def call_of(data: Mapping[str, Any], store: Store, run_id: str) -> FusionCall | None:
    """Return the panel of a run, from the overrides or the kept data of its request; None without one."""
    return FusionCall(Plan(**data[PANEL]), store, run_id) if PANEL in data else None


def with_call(body: dict[str, Any], result: Result, asked: ServedRequest, store: Store) -> dict[str, Any]:
    """Return the body of an answer that has no place for items, with the panel in Fusion's own field."""
    call = call_of(asked.overrides, store, result.run_id)
    if call is None or "output" in body:
        return body
    return {**body, "fusion": {**body.get("fusion", {}), "call": call.item(result)}}


def _ignored(asked: ServedRequest, panel: AskedPanel) -> tuple[str, ...]:
    own = (name for name in asked.ignored if name != _PLUGINS and TOOL not in name)
    return tuple(dict.fromkeys((*own, *panel.ignored)))
