"""Arms that run a pipeline or a single model."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fusion import __version__
from fusion.bench.arms.base import (
    ANSWER,
    ArmResponse,
    Completion,
    Contestant,
    OutOfBudgetError,
    Trial,
    digest_of,
)
from fusion.bench.arms.reviews import ReviewLog, drafts_of
from fusion.bench.report.results import ArmRecord, Paid, Spending, total_cost
from fusion.bench.tasks import Task
from fusion.client.client import Fusion
from fusion.client.handle import RunHandle
from fusion.core.budget import Budget
from fusion.core.errors import AuthenticationError, InputError
from fusion.core.events import CallFinished, EventBase, to_both
from fusion.core.params import Defaults, RoleSpec
from fusion.core.result import Receipt, ReceiptLine, Result, Times
from fusion.core.types import Money, Usage
from fusion.models.base import ModelInfo, Price
from fusion.models.wrappers.cache import RecordedCache
from fusion.pipeline.loader import LoadedPipeline, PipelineGiven
from fusion.pipeline.spec import InputSpec, Pipeline
from fusion.stages.kinds.generate import Generate

Choose = Callable[[Task, Result], tuple[str, Any]]
"""Takes text and data of an answer from the result of a run."""


class PipelineArm(Contestant):
    """A pipeline, or a single model as a pipeline of one call: each answer is a run.

    `choose` defaults to the text and data of the result. With `seeded`, each epoch samples with its own seed.
    All arms with recorded models share `recorded`.
    """

    held = True

    def __init__(
        self,
        record: ArmRecord,
        pipeline: Callable[[Task], PipelineGiven],
        fusion: Fusion,
        *,
        models: Mapping[str, ModelInfo],
        roles: Mapping[str, str],
        strongest: str | None,
        within: Budget,
        recorded: RecordedCache,
        content: str,
        prices: Mapping[str, Price],
        seeded: bool,
        choose: Choose | None = None,
        batch: bool = False,
    ) -> None:
        self.record = record
        self.models = dict(models)
        self.roles = dict(roles)
        """The first model of each role."""
        self._pipeline = pipeline
        replayed = all(info.provider == "replay" for info in self.models.values())
        self._recorded = recorded if replayed else None
        self.marked = not replayed
        self._fusion = fusion.using(kept=False, shared=recorded) if replayed else fusion
        self._strongest = strongest
        self._within = within
        self._batch = batch
        self._prices = dict(prices)
        self._choose = choose or (lambda task, result: (result.text, result.data))
        self._seeded: dict[int, Fusion] | None = {} if seeded else None
        self._pipelines: dict[object, tuple[PipelineGiven, LoadedPipeline]] = {}
        self.digest = digest_of(__version__, record.kind, record.models, content, seeded)

    def begin(self, task: Task, trial: Trial, done: Callable[[Completion], None]) -> Callable[[], object]:
        pipeline, log = self._loaded(self._pipeline(task)), ReviewLog(self._prices)
        prompt, inputs = inputs_of(pipeline.pipeline, task)
        cut: list[str] = []
        try:
            handle = self._fusion_of(trial.seed).start(
                prompt,
                pipeline=pipeline,
                inputs=inputs,
                within=self._within,
                cache="shared",
                batch=self._batch,
                sample=trial.epoch,
                tags={ANSWER: trial.mark} if self.marked else None,
                on_event=to_both(log, partial(_note_cut, cut)),
            )
        except InputError as error:
            failure = error.as_failure()
            done(lambda: ArmResponse(failure=failure, cost=Money(0)))
            return lambda: None
        handle.when_over(lambda: done(lambda: self._response(handle, task, log, cut=len(cut))))
        return handle.stop

    def _loaded(self, given: PipelineGiven) -> LoadedPipeline:
        """Return a pipeline, read once: all tasks of an arm are answered by the same files."""
        key = id(given) if isinstance(given, Pipeline) else given
        if key not in self._pipelines:
            self._pipelines[key] = given, self._fusion.changed(given, {})
        return self._pipelines[key][1]

    def _fusion_of(self, seed: int) -> Fusion:
        """Return the client that samples with this seed."""
        if self._seeded is None:
            return self._fusion
        if seed not in self._seeded:
            self._seeded[seed] = self._fusion.using(defaults=Defaults(seed=seed))
        return self._seeded[seed]

    def _response(self, handle: RunHandle, task: Task, log: ReviewLog, *, cut: int) -> ArmResponse:
        result = handle.wait()
        if isinstance(handle.cause, AuthenticationError):
            raise handle.cause
        more = {"cut": cut, "reviews": log.reviews(result), "drafts": drafts_of(result)}
        spent = self._spent(result).model_copy(update=more)
        stop = _budget_stop(handle, result, self._within)
        if stop is not None or handle.exit_code == 130:
            raise OutOfBudgetError(stop or "stopped", spent)
        if result.status == "failed":
            return spent.model_copy(update={"failure": result.error})
        text, data = self._choose(task, result)
        return spent.model_copy(update={"text": text, "data": data})

    def _spent(self, result: Result) -> ArmResponse:
        by_model: dict[str, Spending] = {}
        for line in result.receipt.lines:
            one = self._spending(line)
            by_model[line.model] = by_model[line.model] + one if line.model in by_model else one
        spent = tuple(by_model.values())
        calls = sum(one.calls for one in spent)
        strong = sum(one.calls for one in spent if one.model == self._strongest)
        reused = result.receipt.reused
        latency, times = (0.0, None) if self._recorded is not None else _alone(result.receipt)
        return ArmResponse(
            cost=total_cost(one.cost for one in spent),
            usage=sum((one.usage for one in spent), Usage()),
            calls=calls,
            latency=latency,
            times=times,
            served=tuple(dict.fromkeys(one.served for one in result.models)),
            spent=spent,
            escalated=self._escalated(result, strong),
            delegated=None if self._strongest is None or not calls else (calls - strong) / calls,
            reused=reused,
            paid=_paid(result.receipt) if reused or self._prices else None,
            run_id=result.run_id,
            counted=() if self._recorded is None else self._recorded.first(result.run_id),
        )

    def _spending(self, line: ReceiptLine) -> Spending:
        """Return the spend of a receipt line, with reused calls at the price of new ones."""
        usage, cost = line.usage + line.saved.usage, line.cost + line.saved.cost
        price = self._prices.get(line.model)
        usd = price.of(usage) if price is not None else None if cost.unknown_calls else cost.usd
        charged = line.charged.cost.usd if price is None else Money(0)
        cached = line.cached if price is None else Money(0)
        calls = line.calls + line.reused
        return Spending(model=line.model, calls=calls, usage=usage, cost=usd, charged=charged, cached=cached)

    def _escalated(self, result: Result, strong: int) -> bool | None:
        """True if a cascade escalated or, without a cascade, if the strongest model was called."""
        if result.receipt.cascades:
            return result.receipt.escalated > 0
        return None if self._strongest is None else strong > 0


def _note_cut(cut: list[str], event: EventBase) -> None:
    """Add the step of a call that reached its output limit."""
    if isinstance(event, CallFinished) and event.finish_reason == "length":
        cut.append(event.step)


def _alone(receipt: Receipt) -> tuple[float, Times]:
    """Return the seconds that a run takes if it makes its reused calls itself, and their split.

    The wait for batches is left out: it says nothing of a model.
    """
    times = receipt.times.model_copy(update={"model": receipt.times.model + receipt.saved_seconds, "batch": 0.0})
    return receipt.seconds + receipt.saved_seconds - receipt.times.batch, times


def _paid(receipt: Receipt) -> Paid:
    usd = None if receipt.cost.unknown_calls else receipt.cost.usd
    return Paid(usd=usd, tokens=receipt.usage.total, calls=receipt.calls)


def _budget_stop(handle: RunHandle, result: Result, within: Budget) -> str | None:
    """Return the message of the benchmark's budget or of one above it, if it stopped this run."""
    names = {level.name for level in within.levels}
    stops = [str(error) for error in handle.budget_stops if error.level in names]
    failures = [part.failure.message for part in result.failed if part.failure.reason == "BudgetError"]
    return next(iter([*stops, *(one for one in failures if any(repr(name) in one for name in names))]), None)


def inputs_of(pipeline: Pipeline, task: Task) -> tuple[str | None, dict[str, Any]]:
    """Return the prompt and inputs for a pipeline. The prompt fills a required input that has no column."""
    inputs = {name: value for name, value in task.inputs.items() if name in pipeline.inputs}
    required = [name for name, spec in pipeline.inputs.items() if spec.required]
    has_room = any(name not in inputs and not pipeline.inputs[name].is_file for name in required)
    return (task.prompt if has_room else None), inputs


def single_model(name: str, model: str, inputs: tuple[str, ...], max_tokens: int) -> Pipeline:
    """Return a pipeline of one call. Its message is the prompt, followed by the inputs under their names."""
    prompt = "generate/pass-through"
    if inputs:
        prompt = "\n\n".join(["{{ request }}", *(f"{one}:\n{{{{ inputs.{one} }}}}" for one in inputs)])
    return Pipeline(
        name=name,
        inputs={"prompt": InputSpec(), **{one: InputSpec(default="") for one in inputs}},
        stages={"answer": Generate.model_validate({"role": "model", "prompt": prompt, "max_tokens": max_tokens})},
        roles={"model": RoleSpec(chain=(model,))},
        output="answer",
    )
