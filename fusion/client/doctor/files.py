"""Files: checks of the store, the weights, the settings in use, the policy and the price file."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from fusion.client.doctor.check import Check, ok, problem, warning
from fusion.core.config import Settings, is_padded, secret, secrets
from fusion.core.errors import FusionError, MissingKeyError
from fusion.core.params import NO_MODEL
from fusion.models.base import ModelInfo
from fusion.models.batches.base import BatchDoor, batch_price
from fusion.models.batches.doors import no_batches
from fusion.models.catalog import describe, price_file
from fusion.models.policy import Guard
from fusion.models.profiles import Profile, choose, missing_keys
from fusion.models.providers.local.weights import Weights, checked_hash, find, has_size, manifest
from fusion.store.sqlite.open import state_of

_FULL: Final = 100_000_000
_TIGHT: Final = 1_000_000_000
_CONTENT: Final = "what is kept of prompts and replies"


def check_settings(settings: Settings) -> Iterator[Check]:
    """Name the files of settings in use, and those ignored."""
    yield ok("settings", ", ".join(map(str, settings.files)) or "no fusion.toml; defaults are used")
    for notice in settings.notices:
        words, _, advice = notice.partition("; " if "; " in notice else ": fusion trust")
        yield warning("settings", words, advice if "; " in notice else f"fusion trust{advice}")


def check_policy(settings: Settings) -> Iterator[Check]:
    """Name the policies in force, and the models of the profile that they forbid."""
    rules = settings.policy.rules
    if not rules:
        yield ok("policy", "none: every model may be called")
        return
    files = ", ".join(str(one.path) for one in rules)
    guard = Guard(settings)
    refused = [one for one in _used(settings) if guard.refusal(describe(one, settings)) is not None]
    denied = f"; it forbids {', '.join(refused)} of the models in use" if refused else ""
    yield ok("policy", f"{files}{denied}; content: {settings.policy.content} ({_CONTENT})")


def check_keys(settings: Settings) -> Iterator[Check]:
    """Name the keys that are set, never their values, and those that are needed and missing."""
    named = {one.key_env for one in settings.endpoints.values() if one.key_env is not None}
    names = sorted(settings.keys & secrets(named).keys())
    yield ok("keys", f"set: {', '.join(names)}" if names else "none is set; profile local needs none")
    for name in names:
        try:
            secret(name)
        except FusionError as error:
            yield problem("keys", str(error), "set it again")
            continue
        if is_padded(name):
            yield warning("keys", f"{name} has white space around its value, which is not sent", "set it without")
    for name, endpoint in settings.endpoints.items():
        if endpoint.key_env is not None and missing_keys((endpoint.key_env,), settings):
            yield problem("keys", f"endpoint {name!r} needs {endpoint.key_env}, which is not set", "set it")


def check_profile(settings: Settings) -> Iterator[Check]:
    """Name the profile in use, and a key that it lacks."""
    try:
        profile = choose(settings, None)
    except MissingKeyError as error:
        words, _, advice = str(error).partition(". ")
        yield problem("profile", words, advice)
        return
    roles = ", ".join(f"{role}={chain[0]}" for role, chain in _chains(profile, settings).items())
    yield ok("profile", f"{profile.name}: {roles}")


def check_batches(settings: Settings) -> Iterator[Check]:
    """Name the models in use that have a batch API, with their price there."""
    infos = [describe(one, settings) for one in dict.fromkeys(_used(settings))]
    found = [f"{info.id} ({_share(info)})" for info in infos if no_batches(info, settings) is None]
    yield ok("batches", ", ".join(found) or "no model in use has a batch API")


def check_weights(settings: Settings) -> Iterator[Check]:
    """Check the weights of embedded models: those present, those incomplete, those that a role in use needs."""
    needed = {one for one in _used(settings) if one.startswith(("local/", "local:"))}
    present = [tier for tier in manifest() if find(tier, settings) is not None]
    missing = sorted(one for one in needed if find(one, settings) is None)
    yield ok("weights", f"{', '.join(present)} in {settings.models_dir}" if present else "no embedded model is here")
    for tier, one in manifest().items():
        fault = _fault(settings.models_dir / one.file, one)
        if fault is not None:
            yield problem("weights", fault, f"fusion models pull {tier}")
    for model_id in missing:
        tier = model_id.removeprefix("local/")
        advice = f"fusion models pull {tier}" if model_id.startswith("local/") else "correct its path"
        yield warning("weights", f"{model_id} is in use, and its weights are not here", advice)


def check_store(settings: Settings) -> Iterator[Check]:
    """Check that the store can be written, its version, and the room on its disk."""
    if settings.store.url is not None:
        yield from _check_database(settings.store.url.get_secret_value(), settings)
        return
    path = settings.store.path
    state = state_of(path)
    size = "not made yet" if state is None else f"{state.size / 1e6:,.1f} MB, version {state.version}"
    free = shutil.disk_usage(_nearest(path)).free
    words = f"{path}: {size}, content {settings.policy.kept(settings.store.content)[0]}, {free / 1e9:,.1f} GB free"
    if free < _FULL:
        yield problem("store", words, "free some disk, or set another path: [store] path")
    elif free < _TIGHT:
        yield warning("store", words, "free some disk")
    else:
        yield ok("store", words)
    if state is not None and state.version < state.newest:
        yield _older(state.version, state.newest)


def _check_database(url: str, settings: Settings) -> Iterator[Check]:
    """Check that the database of a store can be reached and written, and the version of its tables."""
    from fusion.store.open import state_of_database  # its driver is an extra

    state = state_of_database(url)
    made = f"{state.size / 1e6:,.1f} MB, version {state.version}" if state.version else "not made yet"
    yield ok("store", f"{state.where}: {made}, content {settings.policy.kept(settings.store.content)[0]}")
    if state.version > state.newest:
        yield problem(
            "store", f"it has version {state.version}, and this Fusion knows {state.newest}", "update Fusion"
        )
    elif 0 < state.version < state.newest:
        yield _older(state.version, state.newest)


def _older(version: int, newest: int) -> Check:
    return warning("store", f"it has version {version} of {newest}", "the next run updates it; older Fusions stop")


def check_prices(settings: Settings) -> Iterator[Check]:
    """Tell the age of the price file, and of a fetched one that does not count."""
    origin = price_file.origin()
    if (price_file.price_folder() / "prices.json").exists() and origin.meaning != "fetched":
        words = f"the fetched price file in {price_file.price_folder()} is damaged, and ignored"
        yield warning("prices", words, "fusion models update")
    if origin.is_old:
        yield warning("prices", origin.words.partition(";")[0], "fusion models update")
    else:
        yield ok("prices", origin.words)


def _share(info: ModelInfo) -> str:
    price = batch_price(info, BatchDoor.share)
    if price is None or info.price is None:
        return "price unknown"
    return f"{price.output / info.price.output:.0%} of the price"


def _fault(path: Path, weights: Weights) -> str | None:
    """Return the fault of a file of weights: cut short, or damaged; None if it is whole or not here."""
    if not path.exists():
        return None
    if not has_size(path, weights):
        return f"{path} is not whole: {path.stat().st_size:,} of {weights.size:,} bytes"
    return None if checked_hash(path, weights) == weights.sha256 else f"{path} is damaged: its SHA-256 is another one"


def _chains(profile: Profile, settings: Settings) -> dict[str, tuple[str, ...]]:
    return {**profile.roles, **{role: spec.chain for role, spec in settings.roles.items()}}


def _used(settings: Settings) -> Iterable[str]:
    """Return the models of the profile in use and of the user's roles."""
    try:
        profile = choose(settings, None)
    except FusionError:
        return [one for spec in settings.roles.values() for one in spec.chain if one != NO_MODEL]
    return dict.fromkeys(one for chain in _chains(profile, settings).values() for one in chain if one != NO_MODEL)


def _nearest(path: Path) -> Path:
    """Return the nearest folder above a path that exists."""
    return next(folder for folder in path.absolute().parents if folder.exists())
