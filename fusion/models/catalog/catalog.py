"""Catalog: price, context window and abilities of each model, from litellm's price file and the settings."""

import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Final, Literal

from fusion.core.config import Endpoint, Settings, Tariff
from fusion.core.types import FileKind
from fusion.models.base import ModelInfo, Price
from fusion.models.catalog import price_file
from fusion.models.catalog.price_file import Entry
from fusion.models.profiles import family_of, keys_for, region_of

SAMPLING: Final = frozenset({"temperature", "top_p"})
OWN_SERVER: Final = frozenset({"thinking_budget"})
"""Parameters that OpenAI-compatible servers of the user do not know."""

_WHILE_REASONING: Final = "sampling/reasoning"
_SEEDLESS: Final = ("anthropic", "bedrock")
_OPENAI: Final = ("openai", "azure")
_COUNTING: Final = ("anthropic", "bedrock", "vertex_ai", "gemini", "openrouter")
"""Providers with models that take a budget of reasoning tokens."""
_SIGNED: Final = ("bedrock", "sagemaker")
"""Providers whose requests are signed, so that no field can be added."""

_PROVIDERS = "provider_endpoints_support_backup.json"
_COMPATIBLE = "llms/openai_like/providers.json"
_TEXT = ("chat", "responses", "completion")
_LOCAL_TIERS = ("local/small", "local/strong", "local/tiny")
_OWN_SERVERS: Final = ("ollama", "ollama_chat")
_LOCAL_REFUSES: Final = OWN_SERVER | {"reasoning_effort"}
_RESELLER = "openrouter"
"""Charges the list price of the vendor named in its ids: `openrouter/openai/gpt-5.6`."""
_TIER: Final = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_BATCHES: Final = "_batches"
_COST: Final = "_cost"

_MILLION: Final = Decimal(1_000_000)
_SOURCE: Final = "fusion.toml"


def describe(model_id: str, settings: Settings) -> ModelInfo:
    """Return the info of a model or an endpoint; a price in the settings overrides the price file."""
    endpoint = settings.endpoints.get(model_id)
    info = lookup(model_id) if endpoint is None else _of_endpoint(model_id, endpoint)
    tariff = settings.prices.get(model_id)
    if tariff is None or info.local:
        return info
    return info.model_copy(update={"price": _tariff(tariff), "price_source": _SOURCE, "batch_price": None})


def lookup(model_id: str) -> ModelInfo:
    """Return the info of a model from the price file; unknown fields are None.

    The file has zero for input and output where the price is unknown, so that such a price counts as unknown.

    >>> lookup("openai/gpt-5.6").price.output
    Decimal('0.00002')
    """
    if _is_local(model_id):
        return ModelInfo(
            id=model_id,
            provider="local",
            price=Price(input=Decimal(0), output=Decimal(0)),
            price_source="local (free)",
            refuses=_LOCAL_REFUSES,
            json_schema=True,
            takes=frozenset(),
            local=True,
            **_origin(model_id, "local"),
        )
    key, entry = _find(model_id)
    provider = _provider(model_id, entry)
    price, source = _price(entry), f"{price_file.label(key)} ({key})" if key else "unknown"
    if price is None and key and provider in _OWN_SERVERS and not model_id.endswith("-cloud"):
        price, source = Price(input=Decimal(0), output=Decimal(0)), "local (your own server)"
    return ModelInfo(
        id=model_id,
        provider=provider,
        price=price,
        price_source="unknown" if price is None else source,
        refuses=refusals(provider, key.rpartition("/")[2], entry),
        effort=entry.get("default_reasoning_effort"),
        retires=_day(entry.get("deprecation_date")),
        context=_whole(entry.get("max_input_tokens")),
        max_output=_whole(entry.get("max_output_tokens")),
        json_schema=bool(entry.get("supports_response_schema")),
        takes=_takes(entry) if key else None,
        thinking=_thinking(entry),
        mode=entry.get("mode"),
        batch_price=_batch_price(entry),
        **_origin(model_id, provider),
    )


def shipped_price(model_id: str) -> Price | None:
    """Return the price of a model in the installed price file; None if it is unknown."""
    return None if _is_local(model_id) else _price(_find(model_id, price_file.shipped_entry)[1])


def _origin(model_id: str, provider: str) -> dict[str, Any]:
    return {"family": family_of(model_id), "region": region_of(provider), "keys": keys_for(provider)}


def _thinking(entry: Entry) -> Literal["asked", "default", "always"] | None:
    if not entry.get("supports_adaptive_thinking"):
        return None
    if entry.get("thinking_always_on"):
        return "always"
    return "default" if entry.get("thinking_on_by_default") else "asked"


def _takes(entry: Entry) -> frozenset[FileKind]:
    takes: set[FileKind] = set()
    if entry.get("supports_vision"):
        takes.add("image")
    if entry.get("supports_pdf_input"):
        takes.add("pdf")
    return frozenset(takes)


def calls_tools(info: ModelInfo) -> bool:
    """Return False for a model that does not call tools by itself: an embedded one, or by the price file."""
    key, entry = ("", {}) if info.local else _find(info.id)
    return not info.local and (not key or bool(entry.get("supports_function_calling")))


def known(model_id: str) -> bool:
    """Return True if the price file or the embedded models have this id."""
    if model_id.startswith("local/"):
        return model_id in _LOCAL_TIERS
    return _is_local(model_id) or bool(_find(model_id)[0])


def reachable(model_id: str) -> bool:
    """Return True if the id is known, or may be a newer model of a known provider."""
    provider, _, name = model_id.partition("/")
    return known(model_id) or bool(name and provider in providers())


@functools.lru_cache(maxsize=256)
def suggest(model_id: str) -> tuple[str, ...]:
    """Return up to three known ids with a similar spelling, the closest first."""
    wanted = model_id[:100]
    provider, slash, _ = wanted.partition("/")
    if not slash:
        bare = dict(_bare_names())
        return tuple(bare[name] for name in difflib.get_close_matches(wanted, bare, n=3, cutoff=0.6))
    names = [*_LOCAL_TIERS, *_names()]
    same = [name for name in names if name.startswith(provider + "/")]
    return tuple(difflib.get_close_matches(wanted, same or names, n=3, cutoff=0.6))


def _is_local(model_id: str) -> bool:
    return model_id.startswith(("local/", "local:"))


def _find(model_id: str, entry_of: Callable[[str], Entry | None] = price_file.entry) -> tuple[str, Entry]:
    """Return the name and the entry of this id in the price file; empty ones if it is missing."""
    for key, provider in _candidates(model_id):
        entry = entry_of(key)
        if entry is not None and (provider is None or _is_of(provider, str(entry.get("litellm_provider")))):
            return key, entry
    return "", {}


def _is_of(provider: str, named: str) -> bool:
    """Return True for the provider or a part of it: `vertex_ai-language-models`, `bedrock_converse`."""
    return named == provider or named.startswith((f"{provider}-", f"{provider}_"))


def _candidates(model_id: str) -> Iterator[tuple[str, str | None]]:
    """Yield the names this id may have in the file, each with the provider required of its entry."""
    yield model_id, None
    provider, slash, name = model_id.partition("/")
    if not (slash and provider):
        return
    yield name, provider
    if provider == _RESELLER:
        vendor, _, model = name.partition("/")
        yield model, vendor
        yield model.replace(".", "-"), vendor


def _provider(model_id: str, entry: Entry) -> str:
    provider, slash, _ = model_id.partition("/")
    return provider if slash else str(entry.get("litellm_provider") or "unknown")


def _price(entry: Entry) -> Price | None:
    tiers = sorted((int(found[1]) for found in map(_TIER.fullmatch, entry) if found), reverse=True)
    beyond: Price | None = None
    above: int | None = None
    for tier in tiers:
        price = _price_named(entry, f"_above_{tier}k_tokens")
        beyond = None if price is None else price.model_copy(update={"above": above, "beyond": beyond})
        above = 1000 * tier
    price = _price_named(entry, "")
    return None if price is None else price.model_copy(update={"above": above, "beyond": beyond})


def _batch_price(entry: Entry) -> Price | None:
    """Return the price of batches; a class without one costs the same share of its live price as input does."""
    live, batch = entry.get("input_cost_per_token"), entry.get(f"input_cost_per_token{_BATCHES}")
    known = all(isinstance(one, (int, float)) for one in (live, batch, entry.get(f"output_cost_per_token{_BATCHES}")))
    if not known or not live:
        return None
    share = Decimal(str(batch)) / Decimal(str(live))
    costs = {name: value for name, value in entry.items() if _COST in name and isinstance(value, (int, float))}
    scaled = {name: Decimal(str(value)) * share for name, value in costs.items() if not name.endswith(_BATCHES)}
    given = {name.removesuffix(_BATCHES): value for name, value in costs.items() if name.endswith(_BATCHES)}
    return _price({**scaled, **given})


def _price_named(entry: Entry, suffix: str) -> Price | None:
    """Return the price in the fields with this suffix, falling back to those without it."""

    def dollars(name: str) -> Decimal | None:
        value = entry.get(name + suffix, entry.get(name))
        if isinstance(value, Decimal):
            return value
        return Decimal(str(value)) if isinstance(value, (int, float)) else None  # as written, without binary rounding

    given, answered = dollars("input_cost_per_token"), dollars("output_cost_per_token")
    if given is None or answered is None or not (given or answered):
        return None
    return Price(
        input=given,
        output=answered,
        cached_read=dollars("cache_read_input_token_cost"),
        cache_write=dollars("cache_creation_input_token_cost"),
        reasoning=dollars("output_cost_per_reasoning_token"),
    )


def _whole(number: object) -> int | None:
    return int(number) if isinstance(number, (int, float)) and number > 0 else None


def _day(written: object) -> date | None:
    try:
        return date.fromisoformat(str(written))
    except ValueError:
        return None


def _names() -> Iterator[str]:
    """Yield the ids of text models, with their provider in front."""
    for key, entry in price_file.entries().items():
        if entry.get("mode") in _TEXT:
            yield key if "/" in key else f"{entry.get('litellm_provider')}/{key}"


def _bare_names() -> Iterator[tuple[str, str]]:
    """Yield the names of text models without a provider, each with its full id."""
    for key, entry in price_file.entries().items():
        if "/" not in key and entry.get("mode") in _TEXT:
            yield key, f"{entry.get('litellm_provider')}/{key}"


@functools.cache
def providers() -> frozenset[str]:
    """Return all providers of the installed litellm, with or without prices."""
    return frozenset(
        {str(entry.get("litellm_provider")) for entry in price_file.entries().values()}
        | price_file.installed(_PROVIDERS).get("providers", {}).keys()
        | price_file.installed(_COMPATIBLE).keys()
    )


def _of_endpoint(name: str, endpoint: Endpoint) -> ModelInfo:
    return ModelInfo(
        id=name,
        provider=name,
        price=None if endpoint.price is None else _tariff(endpoint.price),
        price_source="unknown" if endpoint.price is None else _SOURCE,
        family=family_of(endpoint.model),
        region="here",
        keys=() if endpoint.key_env is None else (endpoint.key_env,),
        refuses=OWN_SERVER,
        context=endpoint.context,
        json_schema=True,
    )


def _tariff(tariff: Tariff) -> Price:
    read, write = tariff.cache_read, tariff.cache_write
    return Price(
        input=tariff.input / _MILLION,
        output=tariff.output / _MILLION,
        cached_read=None if read is None else read / _MILLION,
        cache_write=None if write is None else write / _MILLION,
    )


# Parameters.


def refusals(provider: str, name: str, entry: Mapping[str, Any]) -> frozenset[str]:
    """Return the unsupported parameters of a model, by its entry in the price file."""
    found: set[str] = set()
    reasons = bool(entry.get("supports_reasoning"))
    if entry.get("supports_sampling_params") is False:
        found |= SAMPLING
    elif provider in _OPENAI and reasons:
        found |= {_WHILE_REASONING} if entry.get("supports_none_reasoning_effort") else SAMPLING
    if provider in _SEEDLESS:
        found.add("seed")
    if provider in _SIGNED:
        found.add("extra")
    if (provider in _OPENAI and name.startswith(("gpt-5", "gpt-6"))) or (provider == "xai" and reasons):
        found.add("stop")
    if not reasons and entry and provider != "ollama":
        found.add("reasoning_effort")
    if not _counts_thinking(provider, name, entry, reasons):
        found.add("thinking_budget")
    return frozenset(found)


def _counts_thinking(provider: str, name: str, entry: Mapping[str, Any], reasons: bool) -> bool:
    if not entry:
        return True
    adaptive = entry.get("supports_adaptive_thinking") and not entry.get("supports_legacy_thinking")
    return reasons and provider in _COUNTING and not adaptive and not name.startswith("gemini-3")


def refused(model: ModelInfo, params: Mapping[str, Any]) -> frozenset[str]:
    """Return those of these parameters that the model does not support in this combination."""
    refuses = model.refuses
    if _WHILE_REASONING in refuses and params.get("reasoning_effort", model.effort) != "none":
        refuses |= SAMPLING
    return refuses & params.keys()
