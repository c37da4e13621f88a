"""Health and metrics: for the tools that watch a server."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from fusion import __version__
from fusion.core.errors import StoreError
from fusion.core.log import LOG
from fusion.core.types import Balance
from fusion.server.service import Service

_FORMAT: Final = "text/plain; version=0.0.4"
_AMOUNTS: Final = {
    "limit": "{} that a budget allows in a period.",
    "spent": "{} spent of a budget in this period.",
    "leased": "{} of a budget that processes hold for calls; they count as spent.",
}
_UNITS: Final = {"usd": "dollars", "tokens": "tokens", "calls": "calls"}
_Sample = tuple[Mapping[str, object], object]


def routes(service: Service) -> Sequence[BaseRoute]:
    """Return the routes of `/healthz`, `/readyz` and `/metrics`."""

    async def alive(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def ready(request: Request) -> Response:
        if service.runs.closing:
            return JSONResponse({"status": "shutting down"}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        budgets = await asyncio.to_thread(_budgets, service)
        return PlainTextResponse("".join((*_lines(service), *_of_budgets(budgets))), media_type=_FORMAT)

    return [Route("/healthz", alive), Route("/readyz", ready), Route("/metrics", metrics)]


def _lines(service: Service) -> Iterator[str]:
    """Yield the metrics in Prometheus' text format. https://prometheus.io/docs/instrumenting/exposition_formats"""
    runs, tally = service.runs, service.runs.tally
    requests = [({"path": path, "status": status}, count) for (path, status), count in tally.requests.items()]
    ended = [({"pipeline": name, "status": status}, count) for (name, status), count in tally.runs.items()]
    tokens = [({"kind": "input"}, tally.input_tokens), ({"kind": "output"}, tally.output_tokens)]
    reused = [({"how": how}, count) for how, count in tally.reused.items()]
    yield from _metric("requests_total", "counter", "Responses by path and HTTP status.", requests)
    yield from _metric("runs_total", "counter", "Runs that ended, by pipeline and status.", ended)
    yield from _metric("runs_in_flight", "gauge", "Runs under way.", [({}, runs.gate.running)])
    yield from _metric("queue_length", "gauge", "Requests that wait for a run to end.", [({}, runs.gate.waiting)])
    yield from _metric("requests_reused_total", "counter", "Repeated requests that began no new run.", reused)
    yield from _metric("cost_dollars_total", "counter", "Dollars spent by runs that ended.", [({}, tally.usd)])
    yield from _metric("unpriced_calls_total", "counter", "Calls of unknown cost.", [({}, tally.unknown_calls)])
    yield from _metric("tokens_total", "counter", "Tokens of runs that ended.", tokens)
    yield from _metric("run_seconds_total", "counter", "Seconds of runs that ended.", [({}, tally.seconds)])
    yield from _metric("body_bytes", "gauge", "Bytes of request bodies that are held.", [({}, service.bodies.held)])


def _budgets(service: Service) -> Sequence[Balance]:
    """Return the budgets with a period; none if the store fails, so that the other metrics are there."""
    try:
        return service.budgets()
    except StoreError as error:
        LOG.warning("budgets are left out of the metrics: %s", error)
        return ()


def _of_budgets(budgets: Sequence[Balance]) -> Iterator[str]:
    """Yield gauges of budgets, by amount and unit; those that no budget limits are left out."""
    for amount, text in _AMOUNTS.items():
        for unit, name in _UNITS.items():
            samples: list[_Sample] = [
                ({"budget": one.name, "per": one.per}, getattr(one.limits[unit], amount))
                for one in budgets
                if unit in one.limits
            ]
            if samples:
                yield from _metric(f"budget_{amount}_{name}", "gauge", text.format(name.capitalize()), samples)


def _metric(name: str, kind: str, text: str, samples: Iterable[_Sample]) -> Iterator[str]:
    yield f"# HELP fusion_{name} {text}\n# TYPE fusion_{name} {kind}\n"
    for labels, value in samples:
        pairs = ",".join(f'{label}="{_escaped(str(given))}"' for label, given in labels.items())
        yield f"fusion_{name}{{{pairs}}} {value}\n" if pairs else f"fusion_{name} {value}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
