"""Launch: pipelines that the page offers, their quotes, and runs started from its form."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypedDict

from fusion.client.handle import RunHandle
from fusion.core.errors import UsageError
from fusion.core.types import Limits
from fusion.pipeline.loader import LoadedPipeline
from fusion.server.catalog import ServedPipeline
from fusion.server.runs.mapping import budget_of
from fusion.server.service import Service

_TAGS: Final = {"from": "page"}


class _Options(TypedDict):
    pipeline: LoadedPipeline
    inputs: dict[str, str]
    budget: Limits | None


class Launch:
    """Quotes and starts runs of the served pipelines. A form may lower their limits, and never raise them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._running: set[RunHandle] = set()

    def offered(self, caller: str | None) -> list[dict[str, Any]]:
        """Return the pipelines of a caller, with their inputs and limits."""
        return [_offer(served, loaded) for served, loaded in self._service.catalog.list(caller)]

    def quote(self, asked: Mapping[str, Any], caller: str | None) -> dict[str, Any]:
        """Return the quote of a form. Raises RefusedError or UsageError."""
        prompt, options = self._read(asked, caller)
        return self._service.fusion.quote(prompt, **options).model_dump(mode="json")

    def start(self, asked: Mapping[str, Any], caller: str | None) -> str:
        """Start the run of a form; return its id once it is in the store. Raises RefusedError or UsageError."""
        prompt, options = self._read(asked, caller)
        fusion, within = self._service.fusion, self._service.table.within
        sink = self._service.progress.take
        handle = fusion.start(prompt, on_event=sink, tags=_TAGS, within=within, stream=True, **options)
        self._running.add(handle)
        handle.when_over(lambda: self._running.discard(handle))
        fusion.store.flush()
        return handle.run_id

    async def close(self) -> None:
        """Stop the runs under way, and wait for their ends."""
        running = list(self._running)
        for handle in running:
            handle.stop()
        await asyncio.gather(*(handle.wait_async() for handle in running))

    def _read(self, asked: Mapping[str, Any], caller: str | None) -> tuple[str | None, _Options]:
        name, inputs = asked.get("pipeline"), asked.get("inputs")
        if not isinstance(name, str):
            raise UsageError("pipeline: give the name of a pipeline that is served")
        if not isinstance(inputs, Mapping) or not all(isinstance(value, str) for value in inputs.values()):
            raise UsageError("inputs: give a text for each input, by its name")
        served = self._service.catalog.find(name, caller)
        loaded = self._service.catalog.load(served)
        key = loaded.pipeline.prompt_input
        return (
            inputs.get(key) or None if key else None,
            {
                "pipeline": loaded,
                "inputs": {name: value for name, value in inputs.items() if value and name != key},
                "budget": budget_of(loaded, served, _limits(asked.get("usd"))),
            },
        )


def _offer(served: ServedPipeline, loaded: LoadedPipeline) -> dict[str, Any]:
    pipeline = loaded.pipeline
    limits = budget_of(loaded, served, Limits()) or pipeline.budget
    return {
        "name": served.name,
        "description": pipeline.description,
        "limits": limits.model_dump(mode="json", exclude_none=True),
        "inputs": [
            {
                "name": key,
                "description": spec.description,
                "format": spec.format,
                "required": spec.required,
                "prompt": key == pipeline.prompt_input,
            }
            for key, spec in pipeline.inputs.items()
        ],
    }


def _limits(usd: Any) -> Limits | None:
    """Return the limit of a form in dollars. Raises UsageError."""
    if usd in (None, ""):
        return None
    try:
        amount = Decimal(str(usd))
    except InvalidOperation:
        raise UsageError(f"usd: expected a number of dollars such as 0.50, found {usd!r}") from None
    if not amount.is_finite() or amount <= 0:
        raise UsageError(f"usd: expected a number of dollars above 0, found {usd!r}")
    return Limits(usd=amount)
