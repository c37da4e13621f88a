"""Examination: every check of the doctor, in the order of its report."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from fusion.client.doctor.check import Check, guarded, problem
from fusion.client.doctor.files import (
    check_batches,
    check_keys,
    check_policy,
    check_prices,
    check_profile,
    check_settings,
    check_store,
    check_weights,
)
from fusion.client.doctor.install import check_engine, check_installs, check_python
from fusion.client.doctor.sandbox import check_sandbox
from fusion.client.doctor.servers import check_servers
from fusion.client.doctor.tools import check_tools
from fusion.core.config import Settings
from fusion.core.errors import UsageError

_OF_SETTINGS: Final[dict[str, Callable[[Settings], Iterator[Check]]]] = {
    "settings": check_settings,
    "policy": check_policy,
    "keys": check_keys,
    "profile": check_profile,
    "batches": check_batches,
    "weights": check_weights,
    "store": check_store,
    "prices": check_prices,
    "sandbox": check_sandbox,
}


_WITHOUT_FILES: Final = ("keys", "weights", "store", "prices")
"""Checks that need no file of settings."""
_ADVICE: Final = "correct the file or variable: until then no model is called"


def examine(*, config: str | None = None, store: str | None = None, online: bool = False) -> list[Check]:
    """Check everything; with `online`, ask the providers whose keys are set.

    Settings that cannot be read are a problem; then the checks that need no file go on, and no server is asked.
    """
    found = [*guarded("python", check_python), *guarded("installs", check_installs)]
    try:
        settings = _at(Settings.from_environment(config=config), store)
    except UsageError as error:
        found += [problem("settings", line, _ADVICE) for line in str(error).splitlines()]
        return [*found, *_checked(_WITHOUT_FILES, _at(Settings.without_files(), store))]
    found += _checked(_OF_SETTINGS, settings)
    if any(": " in one.words and "=local/" in one.words for one in found if one.name == "profile"):
        found += guarded("extra local", check_engine)
    found += guarded("tools", partial(check_tools, settings))
    return [*found, *guarded("endpoints", partial(check_servers, settings, online=online))]


def _checked(names: Iterable[str], settings: Settings) -> list[Check]:
    return [check for name in names for check in guarded(name, partial(_OF_SETTINGS[name], settings))]


def _at(settings: Settings, store: str | None) -> Settings:
    """Return the settings with the store that the command line names."""
    if store is None:
        return settings
    return settings.model_copy(update={"store": settings.store.at(store)})
