"""Panel: the shipped pipeline `fusion` with the models that a request asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from fusion.client.client import Fusion, first_models, loaded
from fusion.core.errors import FusionError, UsageError
from fusion.core.params import RoleSpec
from fusion.models.catalog import describe, refused
from fusion.pipeline.loader import LoadedPipeline
from fusion.server.base import RefusedError
from fusion.server.catalog import PREFIX, Catalog, ServedPipeline
from fusion.server.dialects.openrouter.body import AskedPanel
from fusion.server.dialects.openrouter.models import reached
from fusion.stages.base import Stage
from fusion.stages.kinds.panel import Panel

PIPELINE: Final = "fusion"
PANEL: Final = "panel"
JUDGE: Final = "compare"
WRITER: Final = "answer"
"""Stages of the pipeline."""
_PRESETS: Final[Mapping[str, tuple[str, int]]] = {
    "general-high": ("frontier", 3),
    "general-budget": ("bulk", 3),
    "general-fast": ("bulk", 2),
}
"""Role whose models make up the panel of a preset, and how many."""
_GRACE: Final = 120.0
"""Seconds for members after more than half have answered."""
_PATIENCE: Final = 30.0
"""Seconds for which a member that is down or limited is asked again."""
_TEMPERATURE: Final = 0.8
"""Temperature of a panel of one model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A panel that can run, with the names of its models as they were asked for.

    `seats` are the steps of the panel's members, each with its model, in order. `failed` are the models that cannot
    be asked. `model` writes the answer. `names` are the names by the ids that models have here.
    """

    seats: Mapping[str, str]
    failed: Sequence[Mapping[str, Any]]
    judge: str
    model: str
    names: Mapping[str, str]

    def data(self) -> dict[str, Any]:
        """Return the plan as JSON data, as `Plan(**data)` takes it."""
        return asdict(self)

    def name(self, model_id: str) -> str:
        """Return the name under which a model was asked for; several answers of one keep their labels."""
        whole, _, label = model_id.partition(" (")
        name = self.names.get(whole, whole)
        return f"{name} ({label}" if label else name


class Panels:
    """Makes the pipelines of panels."""

    def __init__(self, fusion: Fusion, catalog: Catalog) -> None:
        self._fusion = fusion
        self._catalog = catalog

    def plan(self, asked: AskedPanel, caller: str | None) -> tuple[ServedPipeline, Plan]:
        """Return the pipeline of a panel and its plan. Raises RefusedError for models that cannot be reached."""
        served = self._base(caller)
        roles: dict[str, RoleSpec] = {}
        names: dict[str, str] = {}
        for role, name in (("writer", self._writer(asked)), ("judge", self._judge(asked))):
            if name is not None:
                model_id = self._reached(name, "model")
                roles[role], names[model_id] = RoleSpec(chain=(model_id,)), name
        members, failed = self._members(asked, roles, names)
        base = loaded(self._fusion, served.pipeline)
        pipeline = _with(base, asked, members, roles)
        return replace(served, pipeline=pipeline), self._plan(pipeline, names, failed)

    def _plan(self, pipeline: LoadedPipeline, names: Mapping[str, str], failed: Sequence[Mapping[str, Any]]) -> Plan:
        models = first_models(self._fusion, "", pipeline=pipeline)
        named = {role: names.get(model_id, model_id) for role, model_id in models.items()}
        panel, judge, writer = (pipeline.pipeline.stages[name] for name in (PANEL, JUDGE, WRITER))
        assert isinstance(panel, Panel)
        return Plan(
            seats={seat.step: named[seat.member.role] for seat in panel.seats},
            failed=failed,
            judge=named[_role(judge)],
            model=named[_role(writer)],
            names=names,
        )

    def _base(self, caller: str | None) -> ServedPipeline:
        try:
            return self._catalog.find(PIPELINE, caller)
        except RefusedError as error:
            raise RefusedError(
                f"OpenRouter's Fusion runs the pipeline {PIPELINE!r}, which this server does not serve to you",
                status=404,
                kind="not_found_error",
                param="plugins",
                code="model_not_found",
            ) from error

    def _writer(self, asked: AskedPanel) -> str | None:
        """Return the model that writes: the one of the request, unless it is the pipeline itself."""
        if asked.model is None or asked.model.removeprefix(PREFIX) == PIPELINE:
            return asked.judge
        return asked.model

    def _judge(self, asked: AskedPanel) -> str | None:
        return asked.judge or self._writer(asked)

    def _reached(self, name: str, param: str) -> str:
        try:
            return reached(self._fusion, name)
        except UsageError as error:
            raise RefusedError(
                f"{param}: {error}", status=_status(error), param=param, code="invalid_model"
            ) from error

    def _members(
        self, asked: AskedPanel, roles: dict[str, RoleSpec], names: dict[str, str]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the members of the panel, with their roles added, and the models that cannot be reached."""
        if not asked.members:
            return ([] if asked.preset is None else self._preset(asked, roles)), []
        members: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for number, name in enumerate(asked.members, start=1):
            try:
                model_id = reached(self._fusion, name)
            except UsageError as error:
                failed.append({"model": name, "error": str(error), "status_code": _status(error)})
                continue
            role = f"panel_{number}"
            names.setdefault(model_id, name)
            roles[role] = self._spec(model_id, asked)
            members.append({"role": role})
        if not members:
            why = "; ".join(str(one["error"]) for one in failed)
            status = 403 if all(one["status_code"] == 403 for one in failed) else 400
            raise RefusedError(
                f"analysis_models: none of them can be asked: {why}",
                status=status,
                param="analysis_models",
                code="invalid_model",
            )
        return members, failed

    def _spec(self, model_id: str, asked: AskedPanel) -> RoleSpec:
        """Return a role of one model, with the parameters that it takes."""
        wanted = {
            "temperature": asked.temperature,
            "reasoning_effort": asked.effort,
            "thinking_budget": asked.thinking,
        }
        given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        not_taken = refused(describe(model_id, self._fusion.settings), given)
        return RoleSpec(
            chain=(model_id,),
            patience=_PATIENCE,
            **{name: one for name, one in given.items() if name not in not_taken},
        )

    def _preset(self, asked: AskedPanel, roles: dict[str, RoleSpec]) -> list[dict[str, Any]]:
        """Return the members of a preset: models of one role's chain, or several answers of one model."""
        role, count = _PRESETS[asked.preset or ""]
        usable = []
        for model_id in self._chain(role):
            try:
                usable.append(reached(self._fusion, model_id))
            except FusionError:
                continue
        if len(usable) < 2:
            return [{"role": role, "samples": count, "temperature": _TEMPERATURE}]
        roles |= {f"panel_{at}": self._spec(one, asked) for at, one in enumerate(usable[:count], start=1)}
        return [{"role": f"panel_{at}"} for at in range(1, min(count, len(usable)) + 1)]

    def _chain(self, role: str) -> tuple[str, ...]:
        own = self._fusion.settings.roles.get(role)
        return self._fusion.profile.roles[role] if own is None else own.chain


def _with(
    base: LoadedPipeline, asked: AskedPanel, members: list[dict[str, Any]], roles: Mapping[str, RoleSpec]
) -> LoadedPipeline:
    """Return the pipeline with these members, its judge and its writer."""
    stages = base.pipeline.stages
    if any(name not in stages for name in (PANEL, JUDGE, WRITER)):
        raise RefusedError(
            f"the pipeline {PIPELINE!r} of this server is not the shipped one: it needs the stages {PANEL}, "
            f"{JUDGE} and {WRITER}",
            status=503,
            kind="server_error",
        )
    limit = {} if asked.max_tokens is None else {"max_tokens": asked.max_tokens}
    panel: dict[str, Any] = {**limit}
    if members:
        panel |= {"members": members, "on_error": "skip", "grace": _GRACE}
    changed = {PANEL: _stage(stages[PANEL], panel)}
    for stage, role in ((JUDGE, "judge"), (WRITER, "writer")):
        if role in roles or asked.preset is not None:
            played = role if role in roles else _PRESETS[asked.preset or ""][0]
            changed[stage] = _stage(stages[stage], {"role": played})
    return base.changed(changed, roles={**base.pipeline.roles, **roles})


def _stage(stage: Any, changes: Mapping[str, Any]) -> Any:
    """Return a stage with other fields, checked again."""
    return type(stage).model_validate({**stage.model_dump(exclude_unset=True), **changes})


def _role(stage: Stage) -> str:
    return next(role for _, role in stage.roles())


def _status(error: FusionError) -> int:
    return 403 if type(error).__name__ == "PolicyError" else 400
