"""Profiles: named sets of models for the roles, and which of them a run takes."""

import functools
from pathlib import Path

from fusion.config import Settings
from fusion.errors import MissingKeyError, UsageError
from fusion.library import close_names
from fusion.types import Value

__all__ = ["Profile", "choose", "key_for", "load_profiles"]

_LOCAL = "local"


class Profile(Value):
    """A chain of models for each role. `key` is the variable with the provider's key, None where no key is needed."""

    name: str
    key: str | None
    roles: dict[str, tuple[str, ...]]


class _Data(Value):
    """What stands in `profiles.yaml`."""

    profiles: dict[str, Profile]
    keys: dict[str, str]


def load_profiles() -> dict[str, Profile]:
    """The shipped profiles by name, in the order in which they are tried."""
    return dict(_data().profiles)


def choose(settings: Settings, asked: str | None) -> Profile:
    """The profile asked for, else that of the settings, else the first whose key is set, else `local`.

    Raises UsageError where there is no such profile, MissingKeyError where its key is not set.
    """
    profiles = load_profiles()
    if asked is not None:
        return _named(asked, profiles, settings, "profile")
    if settings.profile is not None:
        return _named(settings.profile, profiles, settings, "FUSION_PROFILE: profile")
    keyed = (profile for profile in profiles.values() if profile.key in settings.keys)
    return next(keyed, profiles[_LOCAL])


def key_for(provider: str) -> str | None:
    """The variable that holds the key for this provider's models; None where none is needed or none is known."""
    data = _data()
    profile = data.profiles.get(provider)
    return data.keys.get(provider) if profile is None else profile.key


def _named(name: str, profiles: dict[str, Profile], settings: Settings, what: str) -> Profile:
    profile = profiles.get(name)
    if profile is None:
        near = close_names(name, profiles)
        every = "" if near.startswith("; there are") else f" (there are: {', '.join(sorted(profiles))})"
        raise UsageError(f"{what} {name!r} does not exist{near}{every}")
    if profile.key is not None and profile.key not in settings.keys:
        raise MissingKeyError(
            f"profile {name!r} needs a key and {profile.key} is not set. Set it, or choose another profile:"
            " `--profile local` runs on embedded models without any key (`fusion models pull small strong`)"
        )
    return profile


@functools.cache
def _data() -> _Data:
    from ruamel.yaml import YAML

    text = Path(__file__).with_name("profiles.yaml").read_text("utf-8")
    data = YAML(typ="safe", pure=True).load(text)
    return _Data.model_validate(
        {**data, "profiles": {name: {"name": name, **entry} for name, entry in data["profiles"].items()}}
    )
