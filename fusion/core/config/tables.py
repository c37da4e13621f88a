"""Tables of a fusion.toml."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from fusion.core.config.environment import Wire
from fusion.core.config.fields import Address, Variable
from fusion.core.config.policy import PolicyTable
from fusion.core.config.sandbox import SandboxTable
from fusion.core.config.server import ServerTable
from fusion.core.config.tools import McpTable, PythonTable, server_name
from fusion.core.params import Defaults, RoleSpec
from fusion.core.paths import has_password, shown_place
from fusion.core.types import Limits, Money, Per, Value
from fusion.core.validation import Authored

_ENDPOINT: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def _paced(name: str) -> str:
    if name.startswith(("local/", "local:")) or name == "local":
        raise ValueError(f"{name!r} is an embedded model, which makes one call at a time")
    return name


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
    api_base: Address = Field(description="Base URL of the server: http://localhost:8000/v1.")
    key_env: Variable | None = Field(
        default=None, description="Environment variable that holds the key of the server."
    )
    context: int | None = Field(default=None, gt=0, description="Context window in tokens.")
    price: Tariff | None = Field(default=None, description="Price; unknown if unset.")
    concurrency: int | None = Field(default=None, ge=1, description="Concurrent calls to the server.")
    rpm: int | None = Field(default=None, gt=0, description="Requests a minute to the server, evenly spaced.")
    tpm: int | None = Field(default=None, gt=0, description="Tokens a minute to the server, input and output.")
    thinks: bool | None = Field(
        default=None,
        description="Replies begin with thoughts that only a closing `</think>` ends; unset finds that out.",
    )
    batch: bool = Field(
        default=False, description="The server has OpenAI's batch API: `/files` and `/batches` below `api_base`."
    )
    wire: Wire | None = Field(
        default=None, description="Way to the server: Fusion's own HTTP client (direct), or litellm; as FUSION_WIRE."
    )


class Ceilings(Authored):
    """The most that is asked of a model or a provider, whatever it would take."""

    rpm: int | None = Field(default=None, gt=0, description="Requests a minute, evenly spaced.")
    tpm: int | None = Field(
        default=None, gt=0, description="Tokens a minute, input and output: estimated, then as replies count them."
    )
    concurrency: int | None = Field(default=None, gt=0, description="Concurrent calls, of all runs together.")

    @field_validator("rpm", "tpm", "concurrency", mode="before")
    @classmethod
    def _is_a_number(cls, given: object) -> object:
        if isinstance(given, bool):
            raise ValueError(f"expected a whole number, got {str(given).lower()}")
        return given

    def ceilings(self) -> dict[str, int]:
        """Return the ceilings that are set, by name."""
        found = {name: getattr(self, name) for name in Ceilings.model_fields}
        return {name: value for name, value in found.items() if value is not None}

    def under(self, other: "Ceilings") -> "Ceilings":
        """Return the lower ceiling of the two for each unit."""
        both = (self.ceilings(), other.ceilings())
        return Ceilings(**{name: min(one[name] for one in both if name in one) for one in both for name in one})


class LimitsTable(Limits, Ceilings):
    """Limits of every run, and ceilings of every model; `models` holds those of one provider or model."""

    models: dict[Annotated[str, AfterValidator(_paced)], Ceilings] = Field(default={})
    shared: bool | None = Field(
        default=None,
        description="Hold `rpm` and `tpm` for all processes of the store together; by default if it is a database.",
    )

    @model_validator(mode="before")
    @classmethod
    def _apart(cls, given: Any) -> Any:
        """Take the tables in `[limits]` as those of providers and models."""
        if not isinstance(given, Mapping) or "models" in given:
            return given
        tables = {name: table for name, table in given.items() if isinstance(table, Mapping)}
        rest = {name: value for name, value in given.items() if name not in tables}
        return {**rest, "models": tables} if tables else rest

    @property
    def of_run(self) -> Limits:
        """The limits of a run."""
        return Limits(**{name: getattr(self, name) for name in Limits.model_fields})

    def of_model(self, model: str) -> Ceilings:
        """Return the ceilings of one model: its own, else those of every model."""
        own = self.models.get(model)
        return Ceilings(**{**self.ceilings(), **({} if own is None else own.ceilings())})


class BudgetTable(Limits, Authored):
    """A budget that runs share: those of a process that name it by `--within`, or with `per` those of a store."""

    per: Per | None = Field(
        default=None,
        description="Calendar period in UTC (day, week, month), or store: the budget is kept in the store, for all"
        " its processes; by default it lives as long as a process.",
    )
    tags: dict[str, str] | None = Field(
        default=None,
        description="Tags of the runs that it covers by itself; needs `per`. Without a tag, {}: all runs.",
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.limits.model_dump(exclude_none=True):
            raise ValueError("it limits nothing; give usd, tokens, calls or seconds")
        if self.per is None and self.tags is not None:
            raise ValueError('`tags` needs `per`, such as `per = "month"`: the runs of all processes count')
        if self.per is not None and self.seconds is not None:
            raise ValueError("`seconds` are those of one process: leave them out, or leave out `per`")
        return self

    @property
    def limits(self) -> Limits:
        return Limits(**{name: getattr(self, name) for name in Limits.model_fields})


class NamedBudget(Value):
    """A budget of the settings: its limits, its period, the tags that it covers, and the file that declares it."""

    limits: Limits
    file: str
    per: Per | None = None
    tags: dict[str, str] | None = None

    def covers(self, tags: Mapping[str, str]) -> bool:
        """Return True for the tags of a run that this budget covers by itself."""
        return self.tags is not None and self.tags.items() <= tags.items()


class StoreRules(Authored):
    """Content that a store keeps, and its age."""

    content: Literal["full", "digest", "off"] = Field(
        default="full",
        description="Content stored of prompts and replies: texts (full), digests (digest) or nothing (off).",
    )
    retention: int | None = Field(default=None, ge=1, description="Days to keep runs; by default until removed.")
    synchronous: Literal["NORMAL", "FULL"] = Field(
        default="NORMAL", description="FULL syncs the disk at every commit, against power loss."
    )
    cache_mb: int = Field(default=500, ge=0, description="Size of the reply cache in megabytes.")

    @property
    def cache_bytes(self) -> int:
        return self.cache_mb * 1_000_000


class StoreTable(StoreRules):
    """Storage of runs: file or database, content, retention."""

    path: str | None = Field(
        default=None,
        description="File of the store, or a `postgresql://` URL; by default `runs.db` in the user's state folder.",
    )

    @field_validator("path")
    @classmethod
    def _is_a_place(cls, given: str | None) -> str | None:
        if given is not None and (not given or "\0" in given):
            raise ValueError(f"invalid path {given!r}")
        if given is not None and has_password(given):
            raise ValueError(
                f"a file of settings holds no password: write {shown_place(given)!r}, and set PGPASSWORD or a"
                " passfile, or name the whole URL in FUSION_STORE"
            )
        return given


class BatchesTable(Authored):
    """Times and size of batches; they are the same for every provider."""

    quiet: float = Field(
        default=10.0, gt=0, description="Seconds without a further call after which the calls at hand are sent."
    )
    poll: float = Field(default=15.0, gt=0, description="Seconds until a batch is first looked at; it grows.")
    slowest_poll: float = Field(default=300.0, gt=0, description="Seconds between two looks at a batch at most.")
    open_rows: int = Field(
        default=5000, gt=0, description="Calls to one model that are in batches at once; more wait for room."
    )


class TelemetryTable(Authored):
    """Traces and metrics of runs. Their destination is in the `OTEL_` variables of OpenTelemetry."""

    enabled: bool | None = Field(
        default=None,
        description="Trace runs; by default if OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_TRACES_EXPORTER is set.",
    )
    content: bool | None = Field(
        default=None,
        description=(
            "Put prompts and replies into traces; by default as "
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT says."
        ),
    )


def _endpoint_name(name: str) -> str:
    if not _ENDPOINT.fullmatch(name):
        raise ValueError(
            f"invalid endpoint name {name!r}: use letters, digits, '-', '_' and '.', starting with a letter"
        )
    return name


def _budget_name(name: str) -> str:
    if not _ENDPOINT.fullmatch(name):
        raise ValueError(
            f"invalid budget name {name!r}: use letters, digits, '-', '_' and '.', starting with a letter"
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
    limits: LimitsTable = Field(default=LimitsTable(), description="Limits of every run, where `--budget` sets none.")
    budgets: dict[Annotated[str, AfterValidator(_budget_name)], BudgetTable] = Field(
        default={}, description="Budgets that runs share, by name."
    )
    store: StoreTable = Field(default=StoreTable(), description="Storage of runs.")
    batches: BatchesTable = Field(default=BatchesTable(), description="Times and size of batches.")
    policy: PolicyTable = Field(default=PolicyTable(), description="Rules on models and on kept content.")
    telemetry: TelemetryTable = Field(default=TelemetryTable(), description="Traces and metrics of runs.")
    sandbox: SandboxTable = Field(default=SandboxTable(), description="Sandbox of commands that a model wrote.")
    server: ServerTable = Field(default=ServerTable(), description="Pipelines that are served, callers, and bounds.")
    mcp: dict[Annotated[str, AfterValidator(server_name)], McpTable] = Field(
        default={}, description="Servers of tools (Model Context Protocol), by name."
    )
    python: PythonTable = Field(default=PythonTable(), description="Python functions that pipelines may call.")


FREE: Final = frozenset({"profile", "roles", "defaults", "limits", "policy"})
"""Keys that count in the file of a project that is not trusted."""


def bound_tables(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a file that count only once it is trusted."""
    return {name: table for name, table in data.items() if name not in FREE and table}
