"""Allowed: the Python functions that the settings allow, found by `module:function` or by entry point."""

import sys
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from importlib import import_module
from typing import Any, Final

from fusion.core.config import Settings
from fusion.core.errors import UsageError, close_names
from fusion.core.types import Effect
from fusion.tools.functions.function import Function

GROUP: Final = "fusion.tools"
"""Entry point group of functions of packages: each entry is the name of a tool."""


class Allowed:
    """The functions that `[python] allow` of the settings allows; `python` of entry points by name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rules = settings.python
        self.found: dict[str, Function] = {}
        """The functions that were found before."""

    @cached_property
    def entries(self) -> Mapping[str, str]:
        """The functions that installed packages declare, by the name of their entry point."""
        from importlib.metadata import entry_points  # most runs call no function

        return {entry.name: entry.value for entry in entry_points(group=GROUP)}

    def names(self, name: str) -> bool:
        """Return True for the name of a function: `module:function`, or an entry point."""
        return ":" in name or name in self.entries

    def find(self, name: str) -> Function:
        """Return a function as a tool, its module imported. Raises UsageError if it is not allowed or not there."""
        if name not in self.found:
            place = self.entries.get(name, name)
            if not _matches(place, self._rules.allow):
                raise UsageError(f"function {place!r} is not allowed: {self._advice(place)}")
            effect: Effect = "read" if _matches(place, self._rules.read) else "write"
            function = Function(name, self._loaded(place), effect=effect, timeout=self._rules.timeout)
            self.found[name] = function
        return self.found[name]

    def _loaded(self, place: str) -> Callable[..., Any]:
        module, _, path = place.partition(":")
        for folder in map(str, self._rules.folders):
            if folder not in sys.path:
                sys.path.append(folder)  # last, so that a file there hides no module
        found: Any = self._module(module, place)
        for part in path.split("."):
            if not hasattr(found, part):
                known = [name for name, one in vars(found).items() if callable(one) and not name.startswith("_")]
                raise UsageError(f"module {module!r} has no function {path!r}{close_names(path, known)}")
            found = getattr(found, part)
        if not callable(found):
            raise UsageError(f"{place!r} is no function but a value of type {type(found).__name__}")
        if place not in self._rules.allow and (home := getattr(found, "__module__", None)) != module:
            words = f"not allowed by a pattern, since {module!r} has it from {home!r}"
            raise UsageError(f"function {place!r} is {words}: {self._advice(place)}")
        function: Callable[..., Any] = found
        return function

    def _module(self, module: str, place: str) -> Any:
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            missing = error.name or module
            if missing == module or module.startswith(f"{missing}."):
                folders = ", ".join(map(str, self._rules.folders)) or "there is none"
                raise UsageError(
                    f"no module {missing!r} for the function {place!r}: install it, or put it beside the "
                    f"fusion.toml that allows it ({folders})"
                ) from error
            raise UsageError(f"module {module!r} cannot be imported: {error}") from error
        except Exception as error:  # a module of the user's may raise anything
            raise UsageError(f"module {module!r} cannot be imported: {type(error).__name__}: {error}") from error

    def _advice(self, place: str) -> str:
        untrusted = self._settings.untrusted
        if untrusted is not None and _matches(place, untrusted.content.python.allow):
            return untrusted.notice
        file = next(iter(self._settings.files), self._settings.library_dir / "fusion.toml")
        return f'add `allow = ["{place}"]` under `[python]` in {file}'


def _matches(place: str, patterns: Iterable[str]) -> bool:
    """Return True if a pattern names a function; a `*` stands for no attribute of an object."""
    return any(place == one or (fnmatchcase(place, one) and "." not in place.rpartition(":")[2]) for one in patterns)
