"""Tables of a fusion.toml."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, field_validator

from fusion.core.config.environment import Wire
from fusion.core.config.policy import PolicyTable
from fusion.core.params import Defaults, RoleSpec
from fusion.core.types import Limits, Money
from fusion.core.validation import Authored

_ENDPOINT: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


class Tariff(Authored):
    """The price of a model in dollars per million tokens; zero for both is free."""

    input: Money = Field(ge=0, description="Dollars per million input tokens.")
    output: Money = Field(ge=0, description="Dollars per million output tokens.")
    cache_read: Money | None = Field(
        default=None, ge=0, description="Dollars per million input tokens read from the provider's cache; as `input`."
    )
    cache_write: Money | None = Field(
        default=None, ge=0, description="Dollars per million input tokens written to its cache; as `input`."
    )


class Endpoint(Authored):
    """An OpenAI-compatible server of the user: vLLM, llama.cpp, Ollama and others."""

    model: str = Field(min_length=1, description="Name of the model on the server.")
    api_base: str = Field(description="Base URL of the server: http://localhost:8000/v1.")
    key_env: str | None = Field(
        default=None, min_length=1, description="Environment variable that holds the key of the server."
    )
    context: int | None = Field(default=None, gt=0, description="Context window in tokens.")
    price: Tariff | None = Field(default=None, description="Price; unknown if unset.")
    concurrency: int | None = Field(default=None, ge=1, description="Concurrent calls to the server.")
    thinks: bool | None = Field(
        default=None,
        description="Replies begin with thoughts that only a closing `</think>` ends; unset finds that out.",
    )

    wire: Wire | None = Field(
        default=None, description="Way to the server: Fusion's own HTTP client (direct), or litellm; as FUSION_WIRE."
    )

    @field_validator("api_base")
    @classmethod
    def _is_an_address(cls, given: str) -> str:
        if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", given):
            raise ValueError(f"invalid URL {given!r}; write it as http://localhost:8000/v1")
        return given


class StoreTable(Authored):
    """Storage of runs: file, content, retention."""

    path: Path | None = Field(
        default=None, description="File of the store; by default `runs.db` in the user's state folder."
    )
    content: Literal["full", "digest", "off"] = Field(
        default="full",
        description="Content stored of prompts and replies: texts (full), digests (digest) or nothing (off).",
    )
    retention: int | None = Field(default=None, ge=1, description="Days to keep runs; by default until removed.")
    synchronous: Literal["NORMAL", "FULL"] = Field(
        default="NORMAL", description="FULL syncs the disk at every commit, against power loss."
    )
    cache_mb: int = Field(default=500, ge=0, description="Size of the reply cache in megabytes.")

    @field_validator("path", mode="before")
    @classmethod
    def _is_a_path(cls, given: object) -> object:
        if isinstance(given, str) and (not given or "\0" in given):
            raise ValueError(f"invalid path {given!r}")
        return given

    @property
    def cache_bytes(self) -> int:
        return self.cache_mb * 1_000_000


def _endpoint_name(name: str) -> str:
    if not _ENDPOINT.fullmatch(name):
        raise ValueError(
            f"invalid endpoint name {name!r}: use letters, digits, '-', '_' and '.', starting with a letter"
        )
    return name


def _priced(model: str) -> str:
    if model.startswith(("local/", "local:")):
        raise ValueError(f"{model!r} is an embedded model, which is free")
    return model


class SettingsFile(Authored):
    """The content of a fusion.toml."""

    profile: str | None = Field(default=None, min_length=1, description="Profile to use.")
    endpoints: dict[Annotated[str, AfterValidator(_endpoint_name)], Endpoint] = Field(
        default={}, description="OpenAI-compatible servers, by name."
    )
    roles: dict[str, RoleSpec] = Field(default={}, description="Models of roles, by name.")
    prices: dict[Annotated[str, AfterValidator(_priced)], Tariff] = Field(
        default={}, description="Prices of models, by id."
    )
    defaults: Defaults = Field(default=Defaults(), description="Defaults of every call.")
    limits: Limits = Field(default=Limits(), description="Limits of every run, where `--budget` sets none.")
    store: StoreTable = Field(default=StoreTable(), description="Storage of runs.")
    policy: PolicyTable = Field(default=PolicyTable(), description="Rules on models and on kept content.")


FREE: Final = frozenset({"profile", "roles", "defaults", "limits", "policy"})
"""Keys that count in the file of a project that is not trusted."""


def bound_tables(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a file that count only once it is trusted."""
    return {name: table for name, table in data.items() if name not in FREE and table}
