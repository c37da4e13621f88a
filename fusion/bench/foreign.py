"""Foreign: a user's own code, imported and called; what it raises is told without keys that it may have let out."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusion.core.errors import UsageError
from fusion.models.providers.errors import told
from fusion.models.redaction import Masks


def called(what: str, call: Callable[[], Any], advice: str = "") -> Any:
    """What the code gives. Raises UsageError for what it raises: behind that stands a copy without keys."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - the border of code that is not ours
        mask = Masks().now()
        failed = UsageError(f"{what}: {mask.text(f'{type(error).__name__}: {error}')}{advice}")
        failed.__cause__ = told(error, mask)
    raise failed  # out here nothing of the error itself hangs on it


def imported(what: str, name: str) -> tuple[Callable[..., Any], Path | None]:
    """A function given as `module:function`, and the file of its module. `what` is what it is to be."""
    module, _, function = name.partition(":")
    advice = "; it is given as module:function"
    home = called(f"no {what} {name!r}", lambda: importlib.import_module(module), advice)
    found = called(f"no {what} {name!r}", lambda: getattr(home, function), advice)
    if not callable(found):
        raise UsageError(f"the {what} {name!r} is no function")
    file = getattr(home, "__file__", None)
    return found, None if file is None else Path(file)
