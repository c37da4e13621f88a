"""What is known about a model, all in one: the price file, the profiles, and what the user says in fusion.toml."""

from decimal import Decimal
from typing import Final

from fusion.core.config import Endpoint, Settings, Tariff
from fusion.models.abilities import OWN_SERVER
from fusion.models.base import ModelInfo, Price
from fusion.models.prices import lookup
from fusion.models.profiles import family_of, keys_for, missing_keys, region_of

_MILLION: Final = Decimal(1_000_000)
_SOURCE: Final = "fusion.toml"


def describe(model_id: str, settings: Settings) -> ModelInfo:
    """What is known about a model or an endpoint; a price that the user gives goes before that of the price file."""
    endpoint = settings.endpoints.get(model_id)
    info = _known(model_id) if endpoint is None else _of_endpoint(model_id, endpoint)
    tariff = settings.prices.get(model_id)
    if tariff is None or info.local:
        return info
    return info.model_copy(update={"price": _price(tariff), "price_source": _SOURCE})


def missing(info: ModelInfo, settings: Settings) -> tuple[str, ...]:
    """The variables that a model needs and that are not set."""
    return missing_keys(info.keys, settings)


def _known(model_id: str) -> ModelInfo:
    info = lookup(model_id)
    return info.model_copy(
        update={"family": family_of(model_id), "region": region_of(info.provider), "keys": keys_for(info.provider)}
    )


def _of_endpoint(name: str, endpoint: Endpoint) -> ModelInfo:
    return ModelInfo(
        id=name,
        provider=name,
        price=None if endpoint.price is None else _price(endpoint.price),
        price_source="unknown" if endpoint.price is None else _SOURCE,
        family=family_of(endpoint.model),
        region="here",
        keys=() if endpoint.key_env is None else (endpoint.key_env,),
        refuses=OWN_SERVER,
        context=endpoint.context,
        json_schema=True,
    )


def _price(tariff: Tariff) -> Price:
    return Price(input=tariff.input / _MILLION, output=tariff.output / _MILLION)
