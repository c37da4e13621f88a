"""Sandbox: check of the sandbox in which commands run that a model wrote."""

from collections.abc import Iterator

from fusion.client.doctor.check import Check, ok, problem, warning
from fusion.core.config import Settings


def check_sandbox(settings: Settings) -> Iterator[Check]:
    """Name the sandbox, or what to install for one; one that the settings ask for and is not here is a problem."""
    from fusion.sandbox.probe import NoSandboxError, found

    table = settings.sandbox
    try:
        backend = found(table)
    except NoSandboxError as error:
        asked = table.runner or table.readable or table.python != "process"
        words = f"none: {error.reason}; no stage can run a command"
        yield (problem if asked else warning)("sandbox", words, error.advice)
    else:
        yield ok("sandbox", f"{backend.title}: commands see no file, key or network of this machine")
