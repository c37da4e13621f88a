"""Profile: the shipped profiles, and the choice of one by the keys that are set."""

import functools
import tomllib
from collections.abc import Iterable
from pathlib import Path

from fusion.core.config import Settings
from fusion.core.errors import MissingKeyError, UsageError, close_names
from fusion.core.types import Value

_LOCAL = "local"
_ANOTHER = (
    "Set it, or choose another profile: `--profile local` runs on embedded models without any key"
    " (`fusion models pull small strong`)"
)


class Profile(Value):
    """A chain of models for each role. `keys` are the environment variables that its models require.

    An `explicit` profile is never chosen by default. If `providers` is set, at least that many providers of its
    chains must have their keys set; models of the others are left out.
    """

    name: str
    keys: tuple[str, ...] = ()
    explicit: bool = False
    providers: int = 0
    roles: dict[str, tuple[str, ...]]


class _Provider(Value):
    """The region of a provider's models, and the pages that state it."""

    region: str
    sources: tuple[str, ...]


class _Model(Value):
    """The provider and the family of a model."""

    provider: str
    family: str


class _Data(Value):
    """The content of `profiles.toml`."""

    profiles: dict[str, Profile]
    providers: dict[str, _Provider]
    models: dict[str, _Model]
    keys: dict[str, str]
    seats: dict[str, tuple[str, ...]]
    hosts: dict[str, str]


def load_profiles() -> dict[str, Profile]:
    """Return the shipped profiles by name, in order of preference."""
    return dict(_data().profiles)


def choose(settings: Settings, asked: str | None) -> Profile:
    """Return the requested profile, else that of the settings, else the first with all keys set, else `local`.

    Raises UsageError for an unknown profile, MissingKeyError if its keys are not set.
    """
    profiles = load_profiles()
    if asked is not None:
        return _named(asked, profiles, settings, "profile")
    if settings.profile is not None:
        return _named(settings.profile, profiles, settings, f"{settings.profile_from} profile")
    keyed = (profile for profile in profiles.values() if profile.keys and not missing_keys(profile.keys, settings))
    return next((profile for profile in keyed if not profile.explicit), profiles[_LOCAL])


def keys_for(provider: str) -> tuple[str, ...]:
    """Return the environment variables that a provider requires; none if it needs none or is unknown."""
    data = _data()
    profile = data.profiles.get(provider)
    if profile is not None:
        return profile.keys
    return (data.keys[provider],) if provider in data.keys else ()


def missing_keys(keys: tuple[str, ...], settings: Settings) -> tuple[str, ...]:
    """Return the variables that are not set."""
    return tuple(key for key in keys if key not in settings.keys)


def family_of(model_id: str) -> str | None:
    """Return the family of a model, on any provider; None if its name does not tell."""
    models = _data().models
    if model_id in models:
        return models[model_id].family
    families = dict.fromkeys(model.family for model in models.values())
    return next((family for family in families if family in model_id.lower()), None)


def region_of(provider: str) -> str | None:
    """Return the default region of a provider's models; None if unknown."""
    known = _data().providers.get(provider)
    return None if known is None else known.region


def seat_of(provider: str) -> str | None:
    """Return the country in which a provider is seated; None if unknown."""
    return next((country for country, names in _data().seats.items() if provider in names), None)


def provider_at(host: str) -> str | None:
    """Return the provider that answers at a host; None if unknown."""
    host = host.casefold().rstrip(".")
    domains = (".".join(host.split(".")[at:]) for at in range(host.count(".") + 1))
    return next((_data().hosts[domain] for domain in domains if domain in _data().hosts), None)


def is_shipped(name: str, role: str, chain: Iterable[str]) -> bool:
    """Return True if a profile has all these models in the chain of a role."""
    profile = _data().profiles.get(name)
    return profile is not None and set(chain) <= set(profile.roles.get(role, ()))


def _named(name: str, profiles: dict[str, Profile], settings: Settings, what: str) -> Profile:
    profile = profiles.get(name)
    if profile is None:
        near = close_names(name, profiles)
        every = "" if near.startswith("; there are") else f" (there are: {', '.join(sorted(profiles))})"
        raise UsageError(f"{what} {name!r} does not exist{near}{every}")
    missing = missing_keys(profile.keys, settings)
    if missing:
        are = "are" if len(missing) > 1 else "is"
        message = f"profile {name!r} needs a key and {' and '.join(missing)} {are} not set. {_ANOTHER}"
        raise MissingKeyError(message, keys=missing)
    _check_providers(profile, settings)
    return profile


def _check_providers(profile: Profile, settings: Settings) -> None:
    """Raise MissingKeyError if too few providers of the profile have their keys set."""
    if not profile.providers:
        return
    names = dict.fromkeys(model_id.partition("/")[0] for chain in profile.roles.values() for model_id in chain)
    there = [name for name in names if not missing_keys(keys_for(name), settings)]
    if len(there) < profile.providers:
        keys = ", ".join(key for name in names for key in keys_for(name))
        lacking = [name for name in names if name not in there]
        raise MissingKeyError(
            f"profile {profile.name!r} needs the keys of {profile.providers} providers, and {len(there)} of these is"
            f" set: {keys}. {_ANOTHER}",
            keys=[key for name in lacking[: profile.providers - len(there)] for key in keys_for(name)],
        )


@functools.cache
def _data() -> _Data:
    data = tomllib.loads(Path(__file__).with_name("profiles.toml").read_text("utf-8"))
    return _Data.model_validate(
        {**data, "profiles": {name: {"name": name, **entry} for name, entry in data["profiles"].items()}}
    )
