"""Functions of the client: plain ones, and those of namespaces, under one name each for the model.

Codex sends the tools of each MCP server as a namespace, and finds a call by its namespace and name.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

from fusion.core.types import ToolSpec
from fusion.server.base import RefusedError
from fusion.server.dialects.responses.body import Tool

_LONGEST: Final = 64
"""Letters of a function's name that every provider takes."""
_DIGEST: Final = 8
_OTHER: Final = re.compile(r"[^A-Za-z0-9_-]")
_GROUP: Final = "namespace"


class Named(NamedTuple):
    """The name of a function as the client writes it."""

    name: str
    namespace: str | None = None


class Functions:
    """The functions of a request, by the names that the model calls them by."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools: dict[Named, tuple[str, ToolSpec]] = {}
        self.ignored: set[str] = set()
        for at, tool in enumerate(tools):
            self._add(tool, f"tools.{at}")
        self._named = {name: named for named, (name, _) in self._tools.items()}

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The functions as the model sees them."""
        return tuple(spec for _, spec in self._tools.values())

    def named(self, name: str) -> Named:
        """Return the client's name of a function that the model called."""
        return self._named.get(name, Named(name))

    def name(self, named: Named) -> str:
        """Return the name by which the model calls a function of the client, in this request or an earlier one."""
        found = self._tools.get(named)
        return found[0] if found is not None else joined(named)

    def chosen(self, given: Mapping[str, Any]) -> tuple[ToolSpec, ...]:
        """Return the functions that an entry of a choice names: one, or all of a namespace."""
        name, namespace = given.get("name"), given.get("namespace")
        if given.get("type") == _GROUP:
            return tuple(spec for named, (_, spec) in self._tools.items() if named.namespace == name)
        found = [(named, spec) for named, (_, spec) in self._tools.items() if named.name == name]
        exact = [spec for named, spec in found if named.namespace == namespace]
        return tuple(exact or [spec for _, spec in found if namespace is None])

    def _add(self, tool: Tool, where: str) -> None:
        match tool.type:
            case "function":
                self._take(Named(_name_of(tool, where, "a function")), tool, tool.description)
            case "namespace":
                self._add_group(tool, where)
            case kind:
                self.ignored.add(f"tools.{kind}")

    def _add_group(self, group: Tool, where: str) -> None:
        namespace, told = _name_of(group, where, "a namespace"), group.description
        for at, tool in enumerate(group.tools or ()):
            if tool.type != "function":
                self.ignored.add(f"tools.namespace.{tool.type}")
                continue
            named = Named(_name_of(tool, f"{where}.tools.{at}", "a function"), namespace)
            words = [f"{namespace}: {told}" if told else None, tool.description]
            self._take(named, tool, "\n\n".join(filter(None, words)))
            told = None  # the first function of a namespace says what all of them are for

    def _take(self, named: Named, tool: Tool, description: str | None) -> None:
        if named in self._tools:
            return
        name = self._free(joined(named))
        spec = ToolSpec(name=name, description=description or "", parameters=tool.parameters or {})
        self._tools[named] = (name, spec)

    def _free(self, name: str) -> str:
        taken = {one for one, _ in self._tools.values()}
        return next(one for one in _numbered(name) if one not in taken)


def joined(named: Named) -> str:
    """Return a name and its namespace as one name that providers take.

    >>> joined(Named("search", "mcp__docs"))
    'mcp__docs__search'
    """
    if named.namespace is None:
        return named.name
    name = _OTHER.sub("_", f"{named.namespace.removesuffix('__')}__{named.name}")
    if len(name) <= _LONGEST:
        return name
    digest = sha256(f"{named.namespace} {named.name}".encode()).hexdigest()[:_DIGEST]
    return f"{name[: _LONGEST - _DIGEST - 1]}_{digest}"


def functions_of(tools: Sequence[Mapping[str, Any]]) -> Functions:
    """Return the functions of tools as a response repeats them."""
    return Functions([Tool.model_validate(tool) for tool in tools])


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        tail = f"_{number}"
        yield name[: _LONGEST - len(tail)] + tail
        number += 1


def _name_of(tool: Tool, where: str, what: str) -> str:
    if not tool.name:
        raise RefusedError(f"{where}.name: {what} has a name; add it", param=f"{where}.name")
    return tool.name
