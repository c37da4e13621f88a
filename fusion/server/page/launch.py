"""Launch: pipelines that the page offers, their quotes, and runs started from its form."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from fusion.client.telemetry.caller import within_caller
from fusion.core.errors import UsageError
from fusion.core.types import Limits
from fusion.pipeline.loader import LoadedPipeline
from fusion.server.base import ServedRequest
from fusion.server.catalog import ServedPipeline
from fusion.server.runs.mapping import budget_of, options_of
from fusion.server.service import Service

_TAGS: Final = {"from": "page"}


class Launch:
    """Quotes and starts runs of the served pipelines. A form may lower their limits, and never raise them."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def offered(self, caller: str | None) -> list[dict[str, Any]]:
        """Return the pipelines of a caller, with their inputs and limits."""
        return [_offer(served, loaded) for served, loaded in self._service.catalog.list(caller)]

    def quote(self, asked: Mapping[str, Any], caller: str | None) -> dict[str, Any]:
        """Return the quote of a form. Raises RefusedError or UsageError."""
        served, request = self._read(asked, caller)
        options = options_of(self._service.catalog.load(served), served, request)
        quote = self._service.fusion.quote(
            options["prompt"], pipeline=options["pipeline"], inputs=options["inputs"], budget=options["budget"]
        )
        return quote.model_dump(mode="json")

    async def start(self, asked: Mapping[str, Any], caller: str | None, headers: Mapping[str, str]) -> str:
        """Start the run of a form; return its id. It goes on without the page. Raises RefusedError or UsageError.

        The span that the headers name is the parent of that of the run.
        """
        with within_caller(headers):
            run = await self._service.runs.begin(*self._read(asked, caller), caller=caller)
        run.leave()
        return run.run_id

    def _read(self, asked: Mapping[str, Any], caller: str | None) -> tuple[ServedPipeline, ServedRequest]:
        name, inputs = asked.get("pipeline"), asked.get("inputs")
        if not isinstance(name, str):
            raise UsageError("pipeline: give the name of a pipeline that is served")
        if not isinstance(inputs, Mapping) or not all(isinstance(value, str) for value in inputs.values()):
            raise UsageError("inputs: give a text for each input, by its name")
        served = self._service.catalog.find(name, caller)
        key = self._service.catalog.load(served).pipeline.prompt_input
        prompt = inputs.get(key, "") if key else ""
        request = ServedRequest(
            model=name,
            messages=[{"role": "user", "content": prompt}] if prompt else [],
            inputs={name: value for name, value in inputs.items() if value and name != key},
            budget=_limits(asked.get("usd")),
            tags=_TAGS,
            stream=True,
            background=True,
        )
        return served, request


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
