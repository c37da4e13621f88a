"""The `[server]` table of a fusion.toml: pipelines that are served, callers, and bounds of requests."""

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fusion.core.config.fields import Variable
from fusion.core.errors import close_names
from fusion.core.types import Limits
from fusion.core.validation import Authored

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]*")
_CALLER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]")
_ORIGIN: Final = re.compile(r"https?://[^\s/]+")


def _model_name(name: str) -> str:
    if not _MODEL.fullmatch(name):
        raise ValueError(
            f"invalid name {name!r}: use letters, digits and any of . _ / : -, starting with a letter or digit"
        )
    return name


def _caller_name(name: str) -> str:
    if not _CALLER.fullmatch(name):
        raise ValueError(
            f"invalid caller {name!r}: use letters, digits and any of . _ -, starting with a letter or digit"
        )
    return name


def _host_name(name: str) -> str:
    if not _HOST.fullmatch(name):
        raise ValueError(f"invalid host {name!r}; write it without scheme and port: fusion.example.org")
    return name.lower()


def _origin(name: str) -> str:
    if not _ORIGIN.fullmatch(name):
        raise ValueError(f"invalid origin {name!r}; write it as https://chat.example.org, without a path")
    return name.lower()


class ServedTable(Authored):
    """A pipeline under the name that clients ask for. Short form: its file, or the name of a shipped one."""

    pipeline: str = Field(min_length=1, description="File of the pipeline, or the name of a shipped one.")
    budget: Limits | None = Field(default=None, description="Limits of each request, in place of the server's.")
    callers: tuple[Annotated[str, AfterValidator(_caller_name)], ...] = Field(
        default=(), description="Callers that may use it, by their names in `tokens`; by default all."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"pipeline": given} if isinstance(given, str) else given


class ServerTable(Authored):
    """Pipelines that `fusion serve` serves, callers, and bounds of requests."""

    pipelines: dict[Annotated[str, AfterValidator(_model_name)], ServedTable] = Field(
        default={}, description="Pipelines by the name of the model; by default those shipped and of the folder."
    )
    budget: Limits | None = Field(default=None, description="Limits of each request; a request may only lower them.")
    within: str | None = Field(default=None, min_length=1, description="Name of the shared budget of all requests.")
    tokens: dict[Annotated[str, AfterValidator(_caller_name)], Variable] = Field(
        default={}, description="Environment variables that hold the tokens of callers, by caller."
    )
    allowed_hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = Field(
        default=(), description="Host names under which the server is reached, besides loopback."
    )
    allowed_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(
        default=(), description="Origins of web pages that may call the server, such as https://chat.example.org."
    )
    max_body: int = Field(default=32_000_000, ge=1_000, description="Bytes of a request's body at most.")
    concurrency: int = Field(default=64, ge=1, description="Runs at once; further requests wait in the queue.")
    queue: int = Field(default=256, ge=0, description="Requests that wait at most; further ones get status 429.")
    connections: int = Field(default=1_000, ge=1, description="Connections at once; further ones get status 503.")
    on_disconnect: Literal["stop", "finish"] = Field(
        default="stop", description="Run of a client that goes away: stop it, or finish it for a retry."
    )
    reports: Path | None = Field(default=None, description="Folder of benchmark reports that the page shows.")
    grace: float = Field(
        default=10.0,
        ge=0,
        description="Seconds that running requests get at the end of the server, before they stop.",
    )

    @model_validator(mode="after")
    def _knows_its_callers(self) -> Self:
        for name, served in self.pipelines.items():
            for caller in served.callers:
                if caller not in self.tokens:
                    raise ValueError(
                        f"pipelines.{name}: caller {caller!r} has no token{close_names(caller, self.tokens)}"
                    )
        return self
