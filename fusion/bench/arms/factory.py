"""ArmFactory: makes the contestants of a suite, and refuses those that cannot answer before any call."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from fusion.bench.arms.base import Contestant, digest_of, resolve_model, short_name
from fusion.bench.arms.external import FileArm, FunctionArm
from fusion.bench.arms.pipeline import Choose, PipelineArm, inputs_of, single_model
from fusion.bench.arms.unreviewed import unreviewed
from fusion.bench.report.results import ArmRecord
from fusion.bench.suite import Arm, Suite
from fusion.bench.tasks import Task
from fusion.client.client import Fusion, check_run
from fusion.core.budget import Budget
from fusion.core.errors import PipelineError, UsageError
from fusion.core.params import NO_MODEL
from fusion.models.base import ModelInfo, Price
from fusion.models.wrappers.cache import RecordedCache
from fusion.pipeline.loader import LoadedPipeline, PipelineGiven
from fusion.pipeline.spec import Pipeline
from fusion.quote.preview import Preview
from fusion.stages.base import Stage

Kind = Literal["pipeline", "model", "baseline"]

_MILLION: Final = 1_000_000
_SIMULATED: Final = "simulated: the suite says so"


class ArmFactory:
    """Makes contestants from arms. `examples` holds one task of each task set, `ids` the ids of all items."""

    def __init__(
        self,
        suite: Suite,
        near: Path,
        fusion: Fusion,
        within: Budget,
        examples: Sequence[Task],
        ids: frozenset[str],
        *,
        batch: bool = False,
    ) -> None:
        self.near = near
        self.fusion = fusion
        self.recorded = RecordedCache()
        self._suite = suite
        self._within = within
        self._examples = examples
        self._ids = ids
        self._batch = batch
        self._prices = {
            resolve_model(name, near): Price(input=tariff.input / _MILLION, output=tariff.output / _MILLION)
            for name, tariff in suite.prices.items()
        }

    def contestant(self, name: str, arm: Arm) -> Contestant:
        """Return the contestant of an arm. Raises UsageError that names the arm."""
        try:
            if arm.python is not None:
                return FunctionArm(name, arm.python)
            if arm.outputs is not None:
                return FileArm(name, self.near / arm.outputs, self._ids)
            if arm.model is not None:
                return self.single(name, arm.model)
            return self._pipeline(name, arm)
        except PipelineError:  # its problems name the file
            raise
        except UsageError as error:
            raise type(error)(f"the arm {name!r}: {error}") from error

    def single(self, name: str, model: str) -> PipelineArm:
        """Return an arm that calls one model once."""
        return self._model(name, "model", resolve_model(model, self.near))

    def baseline(self, name: str, model: str, change: Callable[[Pipeline], Pipeline], choose: Choose) -> PipelineArm:
        """Return a baseline: the pipeline of a single model, changed."""
        return self._model(name, "baseline", model, change, choose)

    def _model(
        self,
        name: str,
        kind: Kind,
        model: str,
        change: Callable[[Pipeline], Pipeline] = lambda pipeline: pipeline,
        choose: Choose | None = None,
    ) -> PipelineArm:
        made = {
            inputs: change(single_model(name, model, inputs, self._suite.max_tokens))
            for inputs in {tuple(task.inputs) for task in self._examples}
        }
        fusion = self._held(roles={})
        return self._arm(name, kind, lambda task: made[tuple(task.inputs)], fusion, self._examples, choose)

    def singles(self, contestants: Iterable[Contestant]) -> list[Contestant]:
        """Return an arm for each model of a pipeline that has no arm yet."""
        pipelines = [one for one in contestants if isinstance(one, PipelineArm)]
        alone = {model for one in pipelines if one.record.kind == "model" for model in one.record.models}
        asked = dict.fromkeys(model for one in pipelines for model in one.record.models if model not in alone)
        taken = {*self._suite.arms}
        return [self.single(_free(short_name(model), taken), model) for model in asked]

    def reviewing(self, contestants: Iterable[Contestant]) -> list[str]:
        """Return the names of the arms that review."""
        own = [one.record.name for one in contestants if one.record.kind == "pipeline"]
        return [name for name in own if unreviewed(self._loaded(name))]

    def unreviewed(self, contestants: Iterable[Contestant]) -> list[PipelineArm]:
        """Return each arm that reviews once more without each of its reviews."""
        return [
            self._unreviewed(name, stage, without)
            for name in self.reviewing(contestants)
            for stage, without in unreviewed(self._loaded(name)).items()
        ]

    def _loaded(self, name: str) -> Pipeline:
        pipeline, fusion = self._source(self._suite.arms[name])
        return fusion.load(pipeline)

    def _unreviewed(self, name: str, stage: str, without: Stage) -> PipelineArm:
        arm = self._suite.arms[name]
        pipeline, fusion = self._source(arm)
        changed = fusion.changed(pipeline, {stage: without})
        left = {role: model for role, model in arm.roles.items() if role in _roles(changed)}
        _, fusion = self._source(arm.model_copy(update={"roles": left}))
        own = _free(f"{name} without {stage}", {*self._suite.arms})
        return self._arm(own, "baseline", lambda task: changed, fusion, self._examples, of=(name, stage))

    def judge(self, name: str, pipeline: Pipeline, example: Task) -> PipelineArm:
        """Return the arm that runs a judge's pipeline."""
        return self._arm(name, "model", lambda task: pipeline, self.fusion.using(roles={}), [example])

    def _pipeline(self, name: str, arm: Arm) -> PipelineArm:
        pipeline, fusion = self._source(arm)
        return self._arm(name, "pipeline", lambda task: pipeline, fusion, self._examples)

    def _source(self, arm: Arm) -> tuple[Path | str, Fusion]:
        """Return the pipeline of an arm, and the client with its models."""
        assert arm.pipeline is not None
        beside = self.near / arm.pipeline
        pipeline = beside if beside.is_file() else arm.pipeline
        roles = {role: resolve_model(model, self.near) for role, model in arm.roles.items()}
        return pipeline, self._held(profile=arm.profile, roles=roles)

    def _held(self, **given: Any) -> Fusion:
        """Return a client whose answers are held to the suite's `max_tokens`, continuations included."""
        return self.fusion.using(answer_tokens=self._suite.max_tokens, **given)

    def _arm(
        self,
        name: str,
        kind: Kind,
        pipeline: Callable[[Task], PipelineGiven],
        fusion: Fusion,
        examples: Sequence[Task],
        choose: Choose | None = None,
        of: tuple[str, str] | None = None,
    ) -> PipelineArm:
        previews = [_preview(fusion, pipeline(task), task) for task in examples]
        models = {model: info for one in previews for model, info in one.models.items()}
        roles = {role: model for one in previews for role, model in one.roles.items()}
        asked = {role: model for role, model in roles.items() if model != NO_MODEL}
        self._check_priced(models)
        first = pipeline(examples[0])
        files = sorted((path.name, path.read_bytes().hex()) for path in fusion.files(first) if path.is_file())
        inline = first.model_dump_json(exclude={"name"}) if isinstance(first, Pipeline) else ""
        content = digest_of(files, sorted(roles.items()), inline, *(() if of is None else of[1:]))
        sources = {_SIMULATED if model in self._prices else models[model].price_source for model in asked.values()}
        record = ArmRecord(
            name=name,
            kind=kind,
            models=tuple(dict.fromkeys(asked.values())),
            price_source="; ".join(sorted(sources)),
            sha256=content if kind == "pipeline" else "",
            of="" if of is None else of[0],
            without="" if of is None else of[1],
        )
        return PipelineArm(
            record,
            pipeline,
            fusion,
            models=models,
            roles=asked,
            strongest=self._strongest(asked, models),
            within=self._within,
            recorded=self.recorded,
            content=digest_of(content, self._suite.max_tokens, sorted(self._prices)),
            prices=self._prices,
            seeded=self._suite.epochs > 1,
            choose=choose,
            batch=self._batch,
        )

    def _strongest(self, asked: Mapping[str, str], models: Mapping[str, ModelInfo]) -> str | None:
        """Return the most expensive of several models; among equals, the model of the role `frontier`."""
        if len(set(asked.values())) < 2:
            return None
        costs = {}
        for model in asked.values():
            price = self._prices.get(model, models[model].price)
            costs[model] = None if price is None else price.input + price.output
        known = [cost for cost in costs.values() if cost is not None]
        if len(known) == len(costs) and known.count(max(known)) == 1:
            return max(costs, key=lambda model: costs[model] or 0)
        return asked.get("frontier")

    def _check_priced(self, models: Mapping[str, ModelInfo]) -> None:
        unpriced = [name for name, info in models.items() if info.price is None]
        if unpriced and self._suite.budget.usd is not None:
            raise UsageError(
                f"the price of {unpriced[0]!r} is unknown, and the benchmark has a limit in dollars: declare it "
                "under `[prices]` in fusion.toml, or limit `tokens` or `calls`"
            )


def _preview(fusion: Fusion, pipeline: PipelineGiven, task: Task) -> Preview:
    prompt, inputs = inputs_of(fusion.load(pipeline), task)
    check_run(fusion, prompt, pipeline=pipeline, inputs=inputs)
    return fusion.preview(prompt, pipeline=pipeline, inputs=inputs)


def _roles(pipeline: LoadedPipeline) -> set[str]:
    """Return the roles that a pipeline calls or declares."""
    called = {role for stage in pipeline.stages.values() for _, role in stage.roles()}
    return called.union(*(one.pipeline.roles for one in pipeline.all))


def _free(name: str, taken: set[str]) -> str:
    """Return a name that no arm has, and add it to `taken`."""
    while name in taken:
        name = f"{name} alone"
    taken.add(name)
    return name
