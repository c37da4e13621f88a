"""Effects of the options of an answer: those that its stage obeys, ignores or refuses."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fusion.core.errors import InputError, UsageError
from fusion.core.params import PARAMS, AnswerOptions
from fusion.core.schema import to_json_schema
from fusion.core.types import JsonSchema
from fusion.engine.run_spec import RunSpec
from fusion.models.catalog import refused
from fusion.stages.base import Stage

_IGNORED: Final = "options of the answer without an effect: "
_ANY_OBJECT: Final[JsonSchema] = {"type": "object"}
_DIALECT: Final = "$schema"
_FIRM: Final = ("json_schema", "turns")
"""Options without which the answer would not be what was asked for."""
_BESIDE: Final = ("escalate_to", "classifier", "advisor.role")
"""Keys of roles that do not write the answer."""
_OF_TOOLS: Final = ("tools", "tool_choice")


@dataclass(frozen=True, slots=True)
class AnswerEffects:
    """Effects of the options of an answer on a pipeline.

    `ignored` are the options without an effect, `refused` those that a run would be refused for, each by its name
    with the reason.
    """

    ignored: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """A note for each reason, which names the options that are ignored for it."""
        by_reason: dict[str, list[str]] = {}
        for name, why in self.ignored.items():
            by_reason.setdefault(why, []).append(name)
        return tuple(f"{_IGNORED}{', '.join(names)} ({why})" for why, names in by_reason.items())

    def check(self) -> None:
        """Raise InputError for options that are refused."""
        for name, why in self.refused.items():
            raise InputError(f"answer.{name}: {why}")


def ignored_in(notes: Iterable[str]) -> tuple[str, ...]:
    """Return the options of the answer that the notes of a run name as ignored.

    >>> ignored_in(["options of the answer without an effect: seed, stop ('gpt-5.6' does not take them)"])
    ('seed', 'stop')
    """
    found = (note.removeprefix(_IGNORED) for note in notes if note.startswith(_IGNORED))
    return tuple(name for names in found for name in names.partition(" (")[0].split(", "))


def under_options(spec: RunSpec, options: AnswerOptions) -> RunSpec:
    """Return the spec under the options of its answer, with notes on those without an effect.

    Raises InputError for options that the stage which writes the answer cannot obey.
    """
    spec = replace(spec, answer=_read(options))
    found = effects(spec)
    found.check()
    return replace(spec, notes=(*spec.notes, *found.notes))


def effects(spec: RunSpec) -> AnswerEffects:
    """Return the effects of the options of a spec's answer."""
    options = spec.answer
    if options is None:
        return AnswerEffects()
    within, stage = _answering(spec)
    obeyed = frozenset() if stage is None else stage.obeys
    left = {name: _why_not(spec, stage, name) for name in options.given if name not in obeyed}
    firm = {*_FIRM, "tool_choice"} if _forces(options) else _FIRM
    hard = {name: _must(why) for name, why in left.items() if name in firm}
    soft = {name: one for name, one in left.items() if name not in hard}
    if stage is not None:
        soft |= _left_out(within, stage, options.only(obeyed))
    return AnswerEffects(soft, hard)


def _read(options: AnswerOptions) -> AnswerOptions:
    """Return options with a checked schema. Raises InputError."""
    given = options.json_schema
    if given is None:
        return options
    if not given:
        return options.model_copy(update={"json_schema": _ANY_OBJECT})
    try:
        schema = to_json_schema({_DIALECT: given.get(_DIALECT, ""), **given})
    except UsageError as error:
        raise InputError(f"answer.json_schema: {error}") from error
    return options.model_copy(update={"json_schema": {name: one for name, one in schema.items() if name != _DIALECT}})


def _answering(spec: RunSpec) -> tuple[RunSpec, Stage | None]:
    """Return the stage that writes the answer, with the spec of its pipeline."""
    path = spec.loaded.answering
    if path is None:
        return spec, None
    while "/" in path:
        name, _, path = path.partition("/")
        spec = spec.within(name, spec.request, spec.inputs)
    return spec, spec.pipeline.stages[path]


def _why_not(spec: RunSpec, stage: Stage | None, name: str) -> str:
    if stage is not None and name in _OF_TOOLS and getattr(stage, "has_hands", False):
        return f"the answer of {spec.pipeline.name!r} is that of a stage that calls tools of its own"
    if stage is None:
        return f"`output` of {spec.pipeline.name!r} names no stage that writes the answer"
    strategy = getattr(stage, "strategy", "")
    kind = f"{stage.kind} stage" if not strategy else f"{stage.kind} stage with `strategy: {strategy}`"
    return f"the answer of {spec.pipeline.name!r} is that of a {kind}, which does not take them"


def _must(why: str) -> str:
    return f"{why}; give it to a pipeline that ends with a generate, merge or synthesize stage"


def _forces(options: AnswerOptions) -> bool:
    return options.tool_choice not in ("auto", "none")


def _left_out(spec: RunSpec, stage: Stage, options: AnswerOptions | None) -> dict[str, str]:
    """Return the parameters that no model of the stage takes, and a thinking budget above the limit."""
    params: dict[str, Any] = {} if options is None else options.params()
    roles = dict.fromkeys(role for key, role in stage.roles() if key not in _BESIDE)
    firsts = [spec.roles[role].models[0] for role in roles]
    if not params or options is None or not firsts:
        return {}
    nowhere = frozenset(PARAMS).intersection(*(refused(model, params) for model in firsts))
    names = " and ".join(dict.fromkeys(repr(model.id) for model in firsts))
    found = {name: f"{names} does not take them" for name in PARAMS if name in nowhere}
    limit = min(spec.max_tokens(stage), options.max_tokens or spec.max_tokens(stage))
    if params.get("thinking_budget", 0) >= limit:
        found["thinking_budget"] = f"it leaves nothing of the limit of {limit:,} tokens for the answer"
    return found
