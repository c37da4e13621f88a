"""Settings of a command: reads them, asks once if a project's file is trusted, and names what is ignored."""

import sys
from collections.abc import Iterator

from fusion.cli.terminal import complain, is_terminal, printable
from fusion.core.config import Settings
from fusion.core.config.tables import SettingsFile
from fusion.core.config.trust import Trust, Untrusted, shown


def read_settings(config: str | None = None) -> Settings:
    """Return the settings of the environment; `config` names the user's own file. Raises UsageError."""
    settings = Settings.from_environment(config=config)
    if settings.untrusted is not None and not settings.untrusted.asked and _can_ask():
        _ask(settings.untrusted)
        settings = Settings.from_environment(config=config)
    for notice in settings.notices:
        complain(f"fusion: {notice}")
    return settings


def contents(content: SettingsFile) -> Iterator[str]:
    """Describe the tables that need trust, one line each."""
    for name, endpoint in content.endpoints.items():
        key = "no key" if endpoint.key_env is None else f"the key of {endpoint.key_env}"
        yield f"endpoint {name!r}: prompts and {key} go to {endpoint.api_base}"
    for model, price in content.prices.items():
        yield f"price of {model!r}: ${price.input} in, ${price.output} out for a million tokens"
    for name, budget in content.budgets.items():
        limits = ", ".join(f"{key} = {value}" for key, value in budget.model_dump(exclude_none=True).items())
        yield f"budget {name!r}: {limits}"
    for key, value in content.store.model_dump(exclude_unset=True).items():
        yield f"store: {key} = {value}"
    for key, value in content.server.model_dump(mode="json", exclude_unset=True, exclude_none=True).items():
        yield f"server: {key} = {value}"


def _can_ask() -> bool:
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def _ask(untrusted: Untrusted) -> None:
    """Ask if the file is trusted, and keep the answer."""
    complain(f"fusion: {shown(untrusted.path)} is not trusted yet. It sets:")
    for line in contents(untrusted.content):
        complain(f"  {line}")
    sys.stderr.write(printable("Trust it? [y/N] "))
    sys.stderr.flush()
    said = sys.stdin.readline().strip().lower()
    Trust().record(untrusted.path, untrusted.digest, trusted=said in ("y", "yes"))
