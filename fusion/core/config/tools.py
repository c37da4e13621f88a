"""Tables of tools: `[mcp.NAME]`, servers of tools, and `[python]`, functions that pipelines may call."""

import re
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from fusion.core.config.fields import Address, Variable
from fusion.core.validation import Authored

_SERVER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FUNCTION: Final = re.compile(r"[A-Za-z_*][\w*]*(\.[\w*]+)*:[A-Za-z_*][\w.*]*")


def server_name(name: str) -> str:
    """Return the name of a server. Raises ValueError for one that is not of letters, digits, `-` and `_`."""
    if not _SERVER.fullmatch(name):
        raise ValueError(f"invalid server name {name!r}: use letters, digits, '-' and '_', starting with a letter")
    return name


def _header(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise ValueError(f"invalid header {name!r}")
    return name


def _function(pattern: str) -> str:
    if not _FUNCTION.fullmatch(pattern):
        raise ValueError(f"invalid function {pattern!r}; write module:function, or module:* for all of a module")
    return pattern


Function = Annotated[str, AfterValidator(_function)]


class McpTable(Authored):
    """A server of tools that speaks the Model Context Protocol: a command that is started here, or a URL."""

    command: str | None = Field(default=None, min_length=1, description="Command that starts the server.")
    args: tuple[str, ...] = Field(default=(), description="Arguments of the command.")
    env: dict[Variable, Variable] = Field(
        default={}, description="Variables of the server, each with the environment variable that holds its value."
    )
    url: Address | None = Field(
        default=None, description="URL of a server that runs elsewhere: https://tools.example.org/mcp."
    )
    headers: dict[Annotated[str, AfterValidator(_header)], Variable] = Field(
        default={},
        description="Headers of requests, each with the environment variable that holds its value. A bare token in "
        "`Authorization` is sent as `Bearer TOKEN`.",
    )
    tools: tuple[str, ...] | None = Field(
        default=None, description="Patterns of the only tools that may be called; by default all."
    )
    read: tuple[str, ...] = Field(
        default=(),
        description="Patterns of tools that only read, so that a call may be repeated; all others write.",
    )
    timeout: float = Field(default=60.0, gt=0, description="Seconds of a call at most.")
    start_timeout: float = Field(default=60.0, gt=0, description="Seconds until the server lists its tools at most.")

    @model_validator(mode="after")
    def _has_one_way(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either `command`, to start a server, or `url`, to reach one that runs")
        if self.command is None and (self.args or self.env):
            raise ValueError("`args` and `env` are for a server that `command` starts")
        if self.url is None and self.headers:
            raise ValueError("`headers` are for a server with a `url`")
        return self


class McpServer(McpTable):
    """A server of tools, and the folder of the file that declares it, in which its command runs."""

    folder: Path


class PythonTable(Authored):
    """Python functions that pipelines may call: as tools, and in stages of the kind `python`."""

    allow: tuple[Function, ...] = Field(
        default=(), description="Patterns of functions: `module:function`, or `module:*` for all of a module."
    )
    read: tuple[Function, ...] = Field(
        default=(), description="Patterns of functions that only read, so that a call may be repeated."
    )
    timeout: float = Field(default=60.0, gt=0, description="Seconds of a call as a tool at most.")


class PythonRules(PythonTable):
    """The functions that may be called, and the folders of the files that allow them, searched for modules last."""

    folders: tuple[Path, ...] = ()
