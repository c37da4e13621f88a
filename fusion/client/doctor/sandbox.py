"""Sandbox: check of the sandbox in which commands run that a model wrote."""

from collections.abc import Iterator

from fusion.client.doctor.check import Check, ok, problem
from fusion.core.config import Settings


def check_sandbox(settings: Settings) -> Iterator[Check]:
    """Name the sandbox, or what to install for one; a missing one that the settings ask for is a problem."""
    from fusion.sandbox.probe import NoSandboxError, found

    table = settings.sandbox
    try:
        backend = found(table)
    except NoSandboxError as error:
        if table.runner or table.readable or table.python != "process":
            yield problem("sandbox", f"none: {error.reason}; no stage can run a command", error.advice)
        else:
            yield ok("sandbox", f"none: {error.reason}; for stages that run commands: {error.advice}")
    else:
        yield ok("sandbox", f"{backend.title}: commands see no file, key or network of this machine")
