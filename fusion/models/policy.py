"""Guard: decides by the policy which models may be called, and which fail as in an outage."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

from fusion.core.config import Endpoint, Settings
from fusion.core.config.policy import Refusal, Subject, matches
from fusion.core.types import Deltas, Reply, Request
from fusion.models.base import Model, ModelInfo, ModelWrapper, Price
from fusion.models.catalog import shipped_price
from fusion.models.profiles import family_of, provider_at, region_of, seat_of
from fusion.models.providers.doors import door_of

_MILLION: Final = 1_000_000
_FIELDS: Final = ("models", "fallbacks")
"""Fields of a request in which a router takes other models."""
_COMPLETION: Final = "text-completion-"
_WHOLE: Final = ("anthropic", "azure", "bedrock", "cohere", "ollama", "sagemaker", "vertex_ai", "watsonx")
"""Providers whose parts have names of their own: `bedrock_converse`, `vertex_ai-language-models`."""


class Guard:
    """Decides on models by their facts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.rules = settings.policy.rules
        self.outages = settings.outages

    def refusal(self, info: ModelInfo, name: str = "") -> Refusal | None:
        """Return the reason why a model may not be called; `name` is the one it is called by."""
        return self._settings.policy.refusal(self.subject(info, name))

    def subject(self, info: ModelInfo, name: str = "") -> Subject:
        """Return the facts of a model."""
        endpoint = self._settings.endpoints.get(name or info.id)
        at, model = self._served(info, endpoint)
        providers = {info.provider, _whole(info.provider)} | ({at} if at is not None else set())
        ids = [name or info.id, info.id, *([] if endpoint is None else [endpoint.model])]
        ids += [f"{at}/{model}"] if at is not None else []
        ids += [] if "/" in info.id else [f"{provider}/{info.id}" for provider in sorted(providers)]
        own = endpoint is not None and at is None
        return Subject(
            ids=tuple(dict.fromkeys(ids)),
            providers=frozenset(providers),
            family=info.family or family_of(info.id),
            region=region_of(at) if at is not None else info.region or region_of(_whole(info.provider)),
            seat=next((seat for one in sorted(providers) if (seat := seat_of(one)) is not None), None),
            prices=tuple(map(_per_million, filter(None, self._prices(info, () if own else ids)))),
        )

    def _served(self, info: ModelInfo, endpoint: Endpoint | None) -> tuple[str | None, str]:
        """Return the known provider at an address of the user's own, if any, and the name of the model there."""
        if endpoint is not None:
            return provider_at(urlsplit(endpoint.api_base).hostname or ""), endpoint.model
        door, name = door_of(info), info.id.partition("/")[2]
        if door is None or door.address == door.base:
            return None, name
        return provider_at(urlsplit(door.address).hostname or ""), name

    def _prices(self, info: ModelInfo, ids: Iterable[str]) -> Iterator[Price | None]:
        """Yield the price in use; under a limit of prices also that of the installed file."""
        yield info.price
        if self._settings.policy.limits_prices:
            yield from map(shipped_price, ids)


class Permitted(ModelWrapper):
    """A model that sends no request whose own fields name a forbidden model, such as `models` of OpenRouter."""

    def __init__(self, inner: Model, check: Callable[[str], None]) -> None:
        super().__init__(inner)
        self._check = check

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        check_fields(request, self.info, self._check)
        return await self.inner.complete(request, on_delta)


def check_fields(request: Request, info: ModelInfo, check: Callable[[str], None]) -> None:
    """Check every model that the further fields of a request name; `check` raises for a forbidden one."""
    for name in _named(request.extra):
        check(f"{info.provider}/{name}")


def _named(extra: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of models in the further fields of a request."""
    for field in _FIELDS:
        given = extra.get(field)
        for one in given if isinstance(given, (list, tuple)) else (given,):
            name = one.get("model") if isinstance(one, Mapping) else one
            if isinstance(name, str):
                yield name


def is_named(patterns: Sequence[str], subject: Subject) -> bool:
    """Return True if one of these patterns names a model."""
    return any(matches(pattern, subject, strict=True) for pattern in patterns)


def _per_million(price: Price) -> tuple[Decimal, Decimal]:
    return price.input * _MILLION, price.output * _MILLION


def _whole(provider: str) -> str:
    """Return the provider that a part of it belongs to."""
    name = provider.removeprefix(_COMPLETION)
    return next((one for one in _WHOLE if name.startswith((f"{one}_", f"{one}-"))), name)
