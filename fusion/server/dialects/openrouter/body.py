"""Body: the plug-in and the server tool of OpenRouter's Fusion in a request of any API."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fusion.server.base import RefusedError
from fusion.server.dialects.openrouter.names import ALIASES, DEPTH, PLUGIN, TOOL
from fusion.server.dialects.responses.body import Effort

MOST_MODELS: Final = 8
Preset = Literal["general-high", "general-budget", "general-fast"]


class _Part(BaseModel):
    """A part of a body; fields that are not declared have no effect."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, defer_build=True)


class _Reasoning(_Part):
    effort: Effort | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None


class _Options(_Part):
    """Options that plug-in and tool share."""

    analysis_models: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    model: Annotated[str, Field(min_length=1)] | None = None
    preset: Preset | None = None
    max_tool_calls: Annotated[int, Field(ge=1, le=16)] | None = None
    tools: list[dict[str, Any]] | None = None
    max_completion_tokens: Annotated[int, Field(gt=0)] | None = None
    reasoning: _Reasoning | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None


class _Plugin(_Options):
    id: str
    enabled: bool | None = None


_Given = TypeVar("_Given", bound=_Options)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPanel:
    """A panel as it is asked for. `model` writes the answer, and `judge` compares; None is the default of each.

    `ignored` names options without an effect.
    """

    members: tuple[str, ...] = ()
    preset: Preset | None = None
    judge: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    effort: Effort | None = None
    thinking: int | None = None
    ignored: tuple[str, ...] = ()


def asked_panel(body: Mapping[str, Any], headers: Mapping[str, str]) -> AskedPanel | None:
    """Return the panel that a request asks for; None if it asks for none. Raises RefusedError with the field."""
    plugin, others = _plugin(body.get("plugins"))
    tool = _tool(body.get("tools"))
    is_alias = body.get("model") in ALIASES
    if plugin is None and tool is None and not is_alias:
        return None
    if plugin is not None and plugin.enabled is False:
        return None
    _check_depth(headers)
    where, given = ("plugins.fusion", plugin) if plugin is not None else ("tools.parameters", tool or _Options())
    members = tuple(given.analysis_models or ())
    if len(members) > MOST_MODELS:
        _refuse(f"{where}.analysis_models", f"{len(members)} models; a panel has at most {MOST_MODELS}")
    thinks = given.reasoning or _Reasoning()
    return AskedPanel(
        members=members,
        preset=given.preset,
        judge=given.model,
        model=None if is_alias else body.get("model"),
        max_tokens=given.max_completion_tokens,
        temperature=given.temperature,
        effort=thinks.effort,
        thinking=thinks.max_tokens,
        ignored=(*_ignored(given, where), *others),
    )


def _plugin(plugins: Any) -> tuple[_Plugin | None, list[str]]:
    """Return the plug-in among those of a request, and the names of the others."""
    if plugins is None:
        return None, []
    if not isinstance(plugins, list):
        _refuse("plugins", "expected a list of plug-ins")
    found, others = None, []
    for at, one in enumerate(plugins):
        name = one.get("id") if isinstance(one, Mapping) else None
        if not isinstance(name, str):
            _refuse(f"plugins.{at}.id", "a plug-in has an id")
        if name == PLUGIN:
            found = _checked(_Plugin, one, f"plugins.{at}")
        else:
            others.append(f"plugins.{name}")
    return found, others


def _tool(tools: Any) -> _Options | None:
    """Return the options of the server tool, if it is among the tools of a request."""
    for at, one in enumerate(tools if isinstance(tools, list) else []):
        if isinstance(one, Mapping) and one.get("type") == TOOL:
            return _checked(_Options, one.get("parameters") or {}, f"tools.{at}.parameters")
    return None


def _checked(kind: type[_Given], given: Any, where: str) -> _Given:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        flaw = error.errors(include_url=False)[0]
        place = ".".join([where, *(str(step) for step in flaw["loc"])])
        raise RefusedError(f"{place}: {flaw['msg']}", param=place) from error


def _check_depth(headers: Mapping[str, str]) -> None:
    depth = headers.get(DEPTH, "0").strip()
    if depth not in ("", "0"):
        raise RefusedError(
            f"{DEPTH} is {depth!r}: this request comes from a panel, and a panel within a panel is refused; ask "
            "without the plug-in",
            param=DEPTH,
            code="fusion_depth_exceeded",
        )


def _ignored(given: _Options, where: str) -> list[str]:
    """Return the names of options without an effect: members and judge have no tools here."""
    found = [name for name in ("tools", "max_tool_calls") if getattr(given, name)]
    return [f"{where}.{name}" for name in (*found, *(given.model_extra or {}))]


def _refuse(where: str, wrong: str) -> NoReturn:
    raise RefusedError(f"{where}: {wrong}", param=where)
