"""Launch: pipelines that the page offers, their quotes, and runs started from its form."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypedDict

from fusion.client.client import Fusion
from fusion.client.handle import RunHandle
from fusion.core.budget import limits_of
from fusion.core.errors import UsageError, close_names
from fusion.core.types import Limits
from fusion.pipeline.loader import PipelineGiven
from fusion.server.page.live import LiveRuns

_NO_LIMITS: Final = Limits()
_TAGS: Final = {"from": "page"}


class _Options(TypedDict):
    pipeline: PipelineGiven
    inputs: Mapping[str, Any] | None
    budget: Limits | None


class Launch:
    """Starts runs of the offered `pipelines` by name. `cap` limits each of them, whatever a form asks for."""

    def __init__(
        self, fusion: Fusion, pipelines: Mapping[str, PipelineGiven], live: LiveRuns, cap: Limits = _NO_LIMITS
    ) -> None:
        self._fusion = fusion
        self._pipelines = pipelines
        self._live = live
        self._cap = cap
        self._running: set[RunHandle] = set()

    def offered(self) -> list[dict[str, Any]]:
        """Return the pipelines with their inputs; one that cannot be loaded has its `problem`."""
        return [self._offer(name) for name in self._pipelines]

    def _offer(self, name: str) -> dict[str, Any]:
        try:
            pipeline = self._fusion.load(self._pipelines[name])
        except UsageError as error:
            return {"name": name, "problem": str(error), "inputs": []}
        limits = (pipeline.budget.limits if pipeline.budget else _NO_LIMITS).tighter(self._cap)
        return {
            "name": name,
            "description": pipeline.description,
            "budget": limits.model_dump(mode="json", exclude_none=True),
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

    def quote(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the quote of a form. Raises UsageError."""
        prompt, options = self._read(asked)
        return self._fusion.quote(prompt, **options).model_dump(mode="json")

    def start(self, asked: Mapping[str, Any]) -> str:
        """Start the run of a form; return its id once it is in the store. Raises UsageError."""
        prompt, options = self._read(asked)
        handle = self._fusion.start(prompt, on_event=self._live.take, tags=_TAGS, stream=True, **options)
        self._running.add(handle)
        handle.when_over(lambda: self._running.discard(handle))
        self._fusion.store.flush()
        return handle.run_id

    async def close(self) -> None:
        """Stop the runs under way, and wait for their ends."""
        running = list(self._running)
        for handle in running:
            handle.stop()
        await asyncio.gather(*(handle.wait_async() for handle in running))

    def _read(self, asked: Mapping[str, Any]) -> tuple[str | None, _Options]:
        name, inputs = asked.get("pipeline"), asked.get("inputs")
        if not isinstance(name, str) or name not in self._pipelines:
            raise UsageError(f"no pipeline {name!r} is offered here{close_names(str(name), self._pipelines)}")
        if not isinstance(inputs, Mapping) or not all(isinstance(value, str) for value in inputs.values()):
            raise UsageError("inputs: give a text for each input, by its name")
        offer = self._offer(name)
        key = next((one["name"] for one in offer["inputs"] if one["prompt"]), None)
        given = {name: value for name, value in inputs.items() if value and name != key}
        limits = Limits.model_validate(offer.get("budget", {})).tighter(_limits(asked.get("usd")))
        options: _Options = {
            "pipeline": self._pipelines[name],
            "inputs": given,
            "budget": None if limits == _NO_LIMITS else limits,
        }
        return (inputs.get(key) or None if key else None), options


def _limits(usd: Any) -> Limits:
    """Return the limit of a form in dollars. Raises UsageError."""
    if usd in (None, ""):
        return _NO_LIMITS
    try:
        amount = Decimal(str(usd))
    except InvalidOperation:
        raise UsageError(f"usd: expected a number of dollars such as 0.50, found {usd!r}") from None
    if not amount.is_finite() or amount <= 0:
        raise UsageError(f"usd: expected a number of dollars above 0, found {usd!r}")
    return limits_of({"usd": amount}) or _NO_LIMITS
