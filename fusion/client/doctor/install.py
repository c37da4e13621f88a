"""Install: the Python in use, and the versions of the distributions that Fusion needs."""

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final

from fusion import __version__
from fusion.client.doctor.check import Check, ok, problem, warning

_DISTRIBUTION: Final = "compound-fusion"
_OLDEST: Final = (3, 11)
_SHOWN: Final = ("litellm", "aiohttp", "pydantic")
_STOLEN: Final = {"litellm": ("1.82.7", "1.82.8")}
"""Releases that steal keys."""
_EXTRAS: Final = {
    "local": ("xllamacpp", "embedded models"),
    "bench": ("matplotlib", "figures of benchmarks"),
    "mcp": ("mcp", "tools of MCP servers"),
    "monty": ("pydantic-monty", "Python code in the sandbox, without a process"),
}
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_LEAST: Final = re.compile(r">=\s*([\d.]+)")


def check_python() -> Iterator[Check]:
    """Check the version of Python."""
    words = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if sys.version_info < _OLDEST:
        yield problem("python", words, "Fusion needs Python 3.11 or newer")
    else:
        yield ok("python", words)


def check_installs() -> Iterator[Check]:
    """Check the distributions that Fusion requires, and name the extras."""
    needed = [one for one in _required() if "extra ==" not in one]
    faults = [fault for one in needed if (fault := _fault(one))]
    shown = ", ".join(f"{name} {found}" for name in _SHOWN if (found := _version(name)))
    if faults:
        yield problem("installs", "; ".join(faults), f"pip install -U {_DISTRIBUTION}")
    else:
        yield ok("installs", f"fusion {__version__}, {shown}")
    for name, releases in _STOLEN.items():
        if _version(name) in releases:
            advice = f"pip install -U {name}, then replace every key of this machine"
            yield problem("installs", f"{name} {_version(name)} steals keys", advice)
    for extra, (name, use) in _EXTRAS.items():
        found = _version(name)
        yield ok(f"extra {extra}", f"{name} {found}" if found else f"not installed; {use}: {_install(extra)}")


def check_engine() -> Iterator[Check]:
    """Check the engine of embedded models, for a profile that uses them."""
    if not _version("xllamacpp"):
        yield warning("extra local", "the engine of embedded models is not installed", _install("local"))


def _install(extra: str) -> str:
    return f"pip install '{_DISTRIBUTION}[{extra}]'"


def _required() -> list[str]:
    try:
        return requires(_DISTRIBUTION) or []
    except PackageNotFoundError:  # run from a copy of the sources
        return []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _fault(requirement: str) -> str | None:
    """Return the fault of a requirement: missing, or too old."""
    named, least = _NAME.match(requirement), _LEAST.search(requirement)
    if named is None:
        return None
    found = _version(named[0])
    if found is None:
        return f"{named[0]} is not installed"
    if least is not None and _numbers(found) < _numbers(least[1]):
        return f"{named[0]} {found} is older than {least[1]}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))
