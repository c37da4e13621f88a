"""RunSpec: the pipeline, models, inputs and limits of a run, for the engine and for quotes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fusion.core.errors import InputError
from fusion.core.params import AnswerOptions, BatchMode, CacheMode, merged
from fusion.core.types import Attached, File, Limits
from fusion.engine.roles import RoleModels
from fusion.models.base import ModelInfo, Price
from fusion.models.catalog.learned import Learned
from fusion.pipeline.attributes import check_columns
from fusion.pipeline.inputs.values import check_hidden_columns, filled, with_conversation
from fusion.pipeline.loader import LoadedPipeline
from fusion.pipeline.material import RunMaterial, documents
from fusion.pipeline.spec import Pipeline
from fusion.prompts.template import Prompts, Template
from fusion.sandbox import DEFAULT, Sandbox
from fusion.stages.base import ModelStage, Stage
from fusion.stages.context import Room
from fusion.tools.base import Toolbox, Tools


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A pipeline with its models, inputs and limits.

    With `strict_usd`, set by a user's own limit in dollars, calls of unknown price are refused. `cache` overrides the
    cache modes of the pipeline; `sample` distinguishes repeats of a run for the cache.
    """

    loaded: LoadedPipeline
    roles: RoleModels
    inputs: Mapping[str, Any]
    request: str
    limits: Limits
    strict_usd: bool
    profile: str
    cache: CacheMode | None = None
    sample: int = 0
    notes: tuple[str, ...] = ()
    """Notes on the pipeline; for a preview or quote also those on models and keys."""
    batch: bool = False
    """True for a run whose calls may be sent in batches."""
    learned: Callable[[], Learned] | None = None
    """Reads the learned figures of this machine; None if the pipeline reads none."""
    answer_tokens: int | None = None
    """The most output tokens of an answer, continuations included; None for those of its stage."""
    answer: AnswerOptions | None = None
    """Options of the stage that writes the answer."""
    widest: bool = False
    """True for the worst case of a simulation: every subtask reads the largest sections."""
    toolbox: Toolbox = Tools.NONE
    """Tools that the stages may call."""
    sandbox: Sandbox = DEFAULT
    """Sandbox in which the stages run commands."""

    @property
    def pipeline(self) -> Pipeline:
        return self.loaded.pipeline

    @property
    def prompts(self) -> Prompts:
        return self.loaded.prompts

    def with_inputs(self, given: Mapping[str, Any], request: str | None = None) -> "RunSpec":
        """Return the spec of one run, on these inputs and a prompt. Raises InputError for what it cannot run on."""
        return self.on(*checked_inputs(self.loaded, request, given))

    def on(self, request: str, inputs: Mapping[str, Any]) -> "RunSpec":
        """Return the spec of one run on checked inputs. Raises InputError if a model cannot read their files."""
        _check_looked_at(self.loaded, self.roles, request, inputs)
        return replace(self, request=request, inputs=inputs)

    def within(self, path: str, request: str, inputs: Mapping[str, Any]) -> "RunSpec":
        """Return the spec of the pipeline that the stage at this path runs."""
        loaded = self.loaded.nested[path]
        return RunSpec(
            loaded,
            self.roles.nested[path],
            inputs,
            request,
            limits=loaded.pipeline.budget,
            strict_usd=False,
            profile=self.profile,
            cache=self.cache,
            sample=self.sample,
            batch=self.batch,
            learned=self.learned,
            answer_tokens=self.answer_tokens,
            answer=self.answer if (self.loaded.answering or "").startswith(f"{path}/") else None,
            widest=self.widest,
            toolbox=self.toolbox,
            sandbox=self.sandbox,
        )

    def options_of(self, path: str) -> AnswerOptions | None:
        """Return the options of the answer that the stage at a path obeys; None if another one writes the answer."""
        if self.answer is None or path != self.loaded.answering:
            return None
        return self.answer.only(self.pipeline.stages[path].obeys)

    def most_calls(self, path: str, stage: Stage, items: int) -> int | None:
        """Return the most calls of a stage on so many items, under the options of the answer; None if unknown."""
        options = self.options_of(path)
        if options is not None and options.json_schema is not None:
            stage = stage.model_copy(update={"output_schema": options.json_schema})
        return stage.estimate.calls(stage, items, None)

    def batch_mode(self, stage: Stage, role: str) -> BatchMode:
        """Return the way in which the calls of a stage to a role go into batches."""
        own = stage.resilience() if isinstance(stage, ModelStage) else {}
        of_role = self.roles.all[role].resilience
        mode: BatchMode = merged(own, of_role, self.pipeline.defaults.resilience()).get("batch", "auto")
        return mode

    def batch_price(self, stage: Stage, role: str) -> Price | None:
        """Return the price of the first model of a role, if the stage calls it in batches; None if it does not."""
        mode = self.batch_mode(stage, role)
        if mode == "off" or (mode == "auto" and not self.batch):
            return None
        return self.roles.batch_price(self.roles.all[role].models[0].id)

    def material(self) -> RunMaterial:
        """Return the material of one run."""
        found = documents(self.loaded.dataflow.material, self.request, self.inputs)
        return RunMaterial(tuple(found), widest=self.widest)

    def works_twice(self, path: str) -> bool:
        """Return True if a stage works a subtask once more whose sections lack what it needs."""
        dataflow, stage = self.loaded.dataflow, self.loaded.dataflow.stages[path]
        origin = dataflow.origin(path)
        if origin is None or not dataflow.wirings[path].shows_material or not stage.works_sections:
            return False
        plan = self.pipeline.stages[origin]
        if not plan.plans or getattr(plan, "reading", "") != "outline":
            return False
        return getattr(plan, "sections", None) is not None or self.material().sections.pay

    def max_tokens(self, stage: Stage, asked: int | None = None) -> int:
        """Return the output limit of a call: its own, else the stage's, the defaults', or the kind's."""
        own = getattr(stage, "max_tokens", None)
        limit: int = asked or own or self.pipeline.defaults.max_tokens or stage.own_max_tokens
        return limit if self.answer_tokens is None else min(limit, self.answer_tokens)

    def output_limit(self, stage: Stage, info: ModelInfo, asked: int | None) -> int:
        """Return `max_tokens`, limited by the model."""
        limit = self.max_tokens(stage, asked)
        return limit if info.max_output is None else min(limit, info.max_output)

    def room(self, stage: Stage, role: str, asked: int | None = None) -> Room:
        """Return the room of a call of the stage to this role, in tokens."""
        info = self.roles[role].models[0]
        output = self.output_limit(stage, info, asked)
        return Room(None if info.context is None else info.context - output, output, self.answer_tokens)


def checked_inputs(
    loaded: LoadedPipeline, request: str | None, given: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the request and the inputs of a run, with defaults filled in. Raises InputError."""
    dataflow = loaded.dataflow
    if not loaded.shows_material:
        request = with_conversation(request)
    request, values = filled(loaded.pipeline, request, given, material=dataflow.material)
    check_hidden_columns(dataflow.table_reads, values)
    check_columns(loaded.pipeline, loaded.prompts, values)
    return request, values


def _check_looked_at(loaded: LoadedPipeline, roles: RoleModels, request: str, inputs: Mapping[str, Any]) -> None:
    """Raise InputError if a stage would send a picture or document to a model that does not accept it."""
    if not any(isinstance(value, File | Attached) for value in (request, *inputs.values())):
        return
    files = [
        one.content for one in documents(loaded.dataflow.material, request, inputs) if isinstance(one.content, File)
    ]
    for name, stage in loaded.pipeline.stages.items():
        templates = [loaded.prompts.template(use.template) for use in stage.prompts()]
        kinds = {file.kind for template in templates for file in _shown(template, request, inputs)}
        if _reads_files(stage) and loaded.dataflow.wirings[name].shows_material:
            kinds.update(file.kind for file in files)
        for role in dict.fromkeys(role for _, role in stage.roles()):
            for info in roles[role].models:
                blind = sorted(kinds - (kinds if info.takes is None else info.takes))
                if blind:
                    what = {"image": "pictures", "pdf": "PDF documents"}[blind[0]]
                    raise InputError(
                        f"stages.{name} shows {info.id!r} (role {role!r}) {what}, which it does not take; give the "
                        f"role a model that does, as in `--role {role}=provider/model`"
                    )


def _reads_files(stage: Stage) -> bool:
    """Return True if a stage may read the files of the material: all of them, or those of an item's sections."""
    return getattr(stage, "reading", "all") in ("all", "item")


def _shown(template: Template, request: str, inputs: Mapping[str, Any]) -> Iterator[File]:
    """Yield the files that a template may print."""
    values: dict[tuple[str, ...], Any] = {("inputs", name): value for name, value in inputs.items()}
    for path, value in {**values, ("request",): request}.items():
        if template.shows_files or path in template.paths:
            yield from (value,) if isinstance(value, File) else value.files if isinstance(value, Attached) else ()
