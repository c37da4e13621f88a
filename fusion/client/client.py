"""Fusion: the Python door. Runs pipelines from scripts, threads, running event loops and notebooks alike."""

import asyncio
import copy
import functools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from pydantic import BaseModel, ValidationError

from fusion.client.budgets import shared_rates
from fusion.client.gates import AnswerOptions as GateOptions
from fusion.client.gates import answered, is_awaited, person_of, waiting_result
from fusion.client.handle import RunHandle
from fusion.client.launcher import Launcher, shut_down
from fusion.client.options import (
    DEFAULT_PIPELINE,
    ContinueOptions,
    Prompt,
    ResumeOptions,
    RunOptions,
    answer_of,
    check_options,
    tags_of,
)
from fusion.client.stream import AsyncRunStream, RunStream
from fusion.client.telemetry.switch import observer_of
from fusion.core.budget import Amount, Budget, BudgetGiven, limits_of, over
from fusion.core.config import Settings
from fusion.core.errors import BudgetError, RunBusyError, RunFailed, UsageError, WaitingError, close_names
from fusion.core.events import to_both
from fusion.core.params import AnswerOptions, Defaults
from fusion.core.result import FailedPart, Result
from fusion.core.types import GateAnswer
from fusion.engine.answering.continuing import continued
from fusion.engine.answering.effects import AnswerEffects, effects, under_options
from fusion.engine.durable import Recorder, record_of, result_of
from fusion.engine.manifest import Record
from fusion.engine.prepare import prepare, prepare_branch, prepare_many, prepare_without_keys
from fusion.engine.roles import Cast, RoleGiven
from fusion.engine.run_spec import RunSpec
from fusion.models.base import Model
from fusion.models.gateway import Gateway
from fusion.models.profiles import Profile
from fusion.models.wrappers.cache import ReplyCache
from fusion.pipeline.inputs.values import instance_of, request_of, schema_of, shaped_output
from fusion.pipeline.loader import LoadedPipeline, Loader, PipelineGiven
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library
from fusion.stages.base import Stage
from fusion.store.base import Store
from fusion.store.lookup import StoreGiven, exclusive, find_run, lock_of, resolve_store
from fusion.store.rows import Content, RunFilter, RunRow
from fusion.tools.base import Tool, Toolbox
from fusion.tools.declared import Declared

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from fusion.client.history import History
    from fusion.models.catalog.learned import Learned
    from fusion.quote.drill import Drill
    from fusion.quote.preview import Given, Preview
    from fusion.quote.quote import Quote


class Fusion:
    """Runs pipelines.

    `profile` names a set of models ("local", "openai", …); the default is that of the first key that is set. `roles`
    sets single roles to a model's id, a `RoleSpec`, or a `Model` of your own; `model` sets all of them. `budget`
    limits a run: `{"usd": 0.5, "tokens": …, "calls": …, "seconds": …}`. It replaces the pipeline's own limits, and
    under a dollar limit given here a model of unknown price is refused.

    With `store` every run is kept, so that an interrupted one can be resumed: a path, a Store, or True for the
    default of FUSION_STORE, fusion.toml or the platform. `content` selects the parts of prompts and replies to keep.

    `telemetry` traces runs with OpenTelemetry: True, False, or the TracerProvider that spans go to. By default
    `[telemetry]` in fusion.toml and the `OTEL_` variables decide.

    `tools` are those that stages may call by name, beside those that fusion.toml declares: functions, of which
    `Tool.of(function, effect="read")` makes one that may be repeated, or a Tool of your own.

    >>> with Fusion(profile="local") as fusion:
    ...     result = fusion.complete("Compare the two offers.", inputs={"context": text})
    >>> result.text, result.cost
    """

    def __init__(
        self,
        *,
        profile: str | None = None,
        roles: Mapping[str, RoleGiven] | None = None,
        model: str | Model | None = None,
        models: Mapping[str, Model] | None = None,
        budget: BudgetGiven = None,
        store: StoreGiven = None,
        content: Content | None = None,
        settings: Settings | None = None,
        telemetry: "bool | TracerProvider | None" = None,
        tools: Toolbox | Iterable[Tool | Callable[..., Any]] = (),
    ) -> None:
        settings = settings or Settings.announced()
        self._budget = limits_of(budget)
        kept_in, is_ours = resolve_store(store, settings)
        self._cast = Cast(
            settings,
            Gateway(settings, models=models, accounts=shared_rates(settings, kept_in)),
            models=models or {},
            profile=profile,
            roles=roles or {},
            model=model,
            toolbox=Declared(settings, tools),
        )
        self._loader = Loader(Library.standard(user=settings.library_dir))
        observer = observer_of(telemetry, settings)
        recorder = Recorder(kept_in, content or settings.store.content, settings.policy, observer)
        self._launcher = Launcher(self._cast, recorder, retention=settings.store.retention if is_ours else None)
        own_store = kept_in if is_ours else None
        self._finalizer: Callable[[], object] = weakref.finalize(self, shut_down, self._launcher, own_store)

    # Complete: a prompt in, a Result out.

    def complete(
        self, prompt: Prompt = None, *, schema: type[BaseModel] | None = None, **options: Unpack[RunOptions]
    ) -> Result:
        """Run a pipeline to its end.

        `prompt` is a text or OpenAI-style messages and fills the pipeline's first required input; `inputs` fills
        the others by name. The last message is the request, after the conversation before it. A system prompt goes
        above the pipeline's own in every call. Pictures and documents (content parts with a data URL) are sent
        wherever the request is printed. An input of `format: image` or `file` takes a Path, bytes or a data URL.
        With `schema`, a pydantic class, `.data` is an instance of it. `RunOptions` describes the other options.

        Raises RunFailed, with the Result in `.result`, if the run fails; kinds of UsageError before any call.
        """
        return _waited(self.start(prompt, schema=schema, **options), schema)

    async def acomplete(
        self, prompt: Prompt = None, *, schema: type[BaseModel] | None = None, **options: Unpack[RunOptions]
    ) -> Result:
        """Await `complete`. Cancelling it stops the run."""
        handle = self.start(prompt, schema=schema, **options)
        return checked_result(handle, await handle.wait_async(), schema)

    def stream(self, prompt: Prompt = None, **options: Unpack[RunOptions]) -> RunStream:
        """Run a pipeline and iterate over the pieces of its answer; `.result` holds the Result at the end."""
        stream = RunStream()
        options["on_event"] = to_both(stream.sink, options.get("on_event"))
        handle = self.start(prompt, stream=True, **options)
        return stream.of(handle, functools.partial(checked_result, handle))

    def astream(self, prompt: Prompt = None, **options: Unpack[RunOptions]) -> AsyncRunStream:
        """`stream` for `async for`, on the caller's running loop."""
        stream = AsyncRunStream()
        options["on_event"] = to_both(stream.sink, options.get("on_event"))
        handle = self.start(prompt, stream=True, **options)
        return stream.of(handle, functools.partial(checked_result, handle))

    def start(
        self,
        prompt: Prompt = None,
        *,
        schema: type[BaseModel] | None = None,
        stream: bool = False,
        **options: Unpack[RunOptions],
    ) -> RunHandle:
        """Start a run and return at once. With `stream`, the answer's pieces are among the events.

        Raises PipelineError, InputError, MissingKeyError or another UsageError before any call is made.
        """
        self._check_startable()
        tags = tags_of(options.get("tags"))
        within = self._launcher.budgets.of(options.get("within"), tags)
        spec = self._spec(prompt, schema=schema, **options)
        person = person_of(options.get("on_gate"))
        session = self._launcher.begin(spec, tags, person=person)
        return self._launcher.launch(
            spec, session, self, on_event=options.get("on_event"), stream=stream, within=within, person=person
        )

    # Resume: continue a run that has no answer, or repeat one with an edited pipeline.

    def resume(self, run_id: str, **options: Unpack[ResumeOptions]) -> Result:
        """Continue a run that ended without an answer, by its id or a prefix of it; requires `store`.

        The run keeps its pipeline, templates, inputs, models and limits. Finished calls are answered from the store
        at no cost; calls that were in flight are made again; earlier spend counts. `budget` replaces the limits of a
        run that they stopped, `on_event` receives its events. A run that has its whole answer returns it again; of a
        partial one, the parts in `Result.lost` are worked on again.

        With `pipeline`, an edited one: a new run on the same inputs, which reuses the calls of that run wherever they
        are the same. Raises RunBusyError while another process or thread runs it, StoreError if its prompts were not
        kept, and the errors of `complete`.
        """
        return _waited(self.start_resume(run_id, **options), None)

    async def aresume(self, run_id: str, **options: Unpack[ResumeOptions]) -> Result:
        """Await `resume`. Cancelling it stops the run."""
        handle = self.start_resume(run_id, **options)
        return checked_result(handle, await handle.wait_async())

    def start_resume(self, run_id: str, *, stream: bool = False, **options: Unpack[ResumeOptions]) -> RunHandle:
        """Start to resume a run and return at once; see `resume`."""
        check_options(options, ResumeOptions)
        self._check_startable()
        person, on_event = person_of(options.get("on_gate")), options.get("on_event")
        row, limits = find_run(self.store, run_id), limits_of(options.get("budget")) or self._budget
        within = self._launcher.budgets.of(options.get("within"), row.tags)
        if (pipeline := options.get("pipeline")) is not None:
            record = record_of(self.store, row)
            record.check_version()
            spec = prepare_branch(self._cast, self._loader.load(pipeline), record, limits)
            session = self._launcher.begin(spec, row.tags, row, person=person)
            return self._launcher.launch(
                spec, session, self, on_event=on_event, stream=stream, within=within, person=person
            )
        lock = self.store.lock(lock_of(row))
        try:
            row = find_run(self.store, row.run_id)  # read again under the lock, which excludes changes
            retry_budget = limits is not None or within is not None
            lost = self._lost(row, retry_budget=retry_budget)
            kept = result_of(self.store, row) if row.status in ("ok", "partial") and not lost else None
            kept = waiting_result(self.store, row) if kept is None and person is None else kept
            if kept is not None:
                lock.release()
                return RunHandle.ended(kept, self._launcher.loop, self)
            record = record_of(self.store, row)
            spec = record.spec(self._loader.library, self._cast.gateway, self._cast.own, self._cast.toolbox)
            if limits is not None:
                spec = replace(spec, limits=over(spec.limits, limits))
            session = self._launcher.recorder.resume(row, lock, retry_budget=retry_budget, lost=lost)
            from fusion.client.history.run_diff import since_then  # a new run needs none of it

            session.note(since_then(record, self._loader))
        except BaseException:
            lock.release()
            raise
        return self._launcher.launch(
            spec, session, self, on_event=on_event, stream=stream, within=within, person=person
        )

    # Gates: answer the open questions of a run that waits.

    def approve(
        self,
        run_id: str,
        gate: str | None = None,
        *,
        yes: bool = True,
        text: str | None = None,
        data: Any = None,
        by: str | None = None,
        **options: Unpack[ResumeOptions],
    ) -> Result:
        """Answer a gate of a run that waits, and go on with the run; requires `store`.

        `gate` is the stage, such as `approval`, or the stage and the number of an item, `ask/3`; it may be left out
        where only one is open. With `yes=False` the answer is no, and `text` the reason. Else `text` replaces what
        was shown, and `data` answers a gate with a schema. `by` is the name in the record.

        Returns the Result. Its status is "waiting" if other gates are open, and for a run that goes on elsewhere: a
        row of a map, or one that another process waits for. Raises GateError if the gate was answered before, or the
        answer does not fit; RunFailed as `resume`.

        >>> result = fusion.complete("Write to the customer.", pipeline="draft-approve")
        >>> if result.status == "waiting":
        ...     result = fusion.approve(result.run_id, text=edited, by="maria")
        """
        self.answer(run_id, gate, yes=yes, text=text, data=data, by=by)
        row = find_run(self.store, run_id)
        if row.map is not None or is_awaited(self.store, row.run_id):
            return result_of(self.store, row)
        try:
            return self.resume(row.run_id, **options)
        except RunBusyError as error:
            raise RunBusyError(f"the answer is kept; {error}") from error

    def answer(self, run_id: str, gate: str | None = None, **answer: Unpack[GateOptions]) -> GateAnswer:
        """Answer a gate as `approve` does, without going on with the run. The first answer counts."""
        check_options(answer, GateOptions)
        return answered(self.store, run_id, gate, answer)[1]

    # Continue: answer the calls of tools that a run ended with.

    def continue_run(
        self, run_id: str, results: Mapping[str, str] | None = None, **options: Unpack[ContinueOptions]
    ) -> Result:
        """Go on with a run that ended with calls of your tools, given their results by call id; requires `store`.

        It is a new run, whose parent is the old one. Earlier stages are answered from the store at no cost; only the
        stage that writes the answer calls its model, which reads its calls and their results. Without `results`, a
        run that ended with a text goes on with the `turns` of `answer`.

        Raises UsageError for unknown ids, missing results, and a run without calls; StoreError if its words were not
        kept.

        >>> tools = [{"name": "weather", "parameters": {"type": "object"}}]
        >>> result = fusion.complete("Weather in Oslo?", pipeline="single", answer={"tools": tools})
        >>> results = {call.id: weather(call.arguments) for call in result.tool_calls}
        >>> fusion.continue_run(result.run_id, results).text
        """
        return _waited(self.start_continue(run_id, results, **options), None)

    async def acontinue_run(
        self, run_id: str, results: Mapping[str, str] | None = None, **options: Unpack[ContinueOptions]
    ) -> Result:
        """Await `continue_run`. Cancelling it stops the run."""
        handle = self.start_continue(run_id, results, **options)
        return checked_result(handle, await handle.wait_async())

    def start_continue(
        self,
        run_id: str,
        results: Mapping[str, str] | None = None,
        *,
        stream: bool = False,
        **options: Unpack[ContinueOptions],
    ) -> RunHandle:
        """Start to go on with a run and return at once; see `continue_run`."""
        check_options(options, ContinueOptions)
        self._check_startable()
        given = options.get("answer")
        row, limits = find_run(self.store, run_id), limits_of(options.get("budget")) or self._budget
        record, answer = continued(self.store, self._loader.library, row, results or {}, answer_of(given))
        if (pipeline := options.get("pipeline")) is not None:
            spec = prepare_branch(self._cast, self._loader.load(pipeline), record, limits)
        else:
            spec = record.spec(self._loader.library, self._cast.gateway, self._cast.own, self._cast.toolbox)
            spec = spec if limits is None else replace(spec, limits=over(spec.limits, limits))
        spec = under_options(replace(spec, answer=None), answer)
        tags = tags_of(options.get("tags")) if "tags" in options else row.tags
        within = self._launcher.budgets.of(options.get("within"), tags)
        person = person_of(options.get("on_gate"))
        session = self._launcher.begin(spec, tags, row, continues=True, person=person)
        return self._launcher.launch(
            spec, session, self, on_event=options.get("on_event"), stream=stream, within=within, person=person
        )

    def _lost(self, row: RunRow, *, retry_budget: bool) -> tuple[FailedPart, ...]:
        """Return the parts of a partial run to work on again; those that its budget stopped need a new one."""
        if row.status != "partial" or row.content != "full":
            return ()
        lost = result_of(self.store, row).lost
        return tuple(part for part in lost if retry_budget or part.failure.reason != BudgetError.__name__)

    # Preview and quote: no call is made, and no key is needed.

    def preview(
        self,
        prompt: Prompt = None,
        *,
        pipeline: PipelineGiven = DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
        budget: BudgetGiven = None,
        given: "Given | None" = None,
        stage: str | None = None,
        item: int | None = None,
        answer: AnswerOptions | Mapping[str, Any] | None = None,
    ) -> "Preview":
        """Return the calls that a run would make, and their bounds, without any call.

        Results that a stage depends on and that do not exist yet are named as `missing`; `given` supplies them, by
        `stage` or `stage.field`. `stage` and `item` (from 0) restrict the preview to one stage or item. `answer` has
        the options of the answer, which its call shows.

        Raises the errors of `start` except for a missing key, which is a note, and PromptError if a template fails.
        """
        from fusion.quote.preview import preview  # a run needs none of it

        self._launcher.loop.check_outside("a run cannot be previewed")
        loaded = self._loader.load(pipeline)
        if stage is not None and stage not in loaded.pipeline.stages:
            raise UsageError(f"no stage {stage!r}{close_names(stage, loaded.pipeline.stages)}")
        options: RunOptions = {"pipeline": pipeline, "inputs": inputs, "budget": budget, "answer": answer}
        spec = self._spec(prompt, prepare_without_keys, **options)
        return self._launcher.loop.submit(preview(spec, given=given, stage=stage, item=item)).done.result()

    def quote(
        self,
        prompt: Prompt = None,
        *,
        pipeline: PipelineGiven = DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
        budget: BudgetGiven = None,
        batch: bool = False,
        answer: AnswerOptions | Mapping[str, Any] | None = None,
    ) -> "Quote":
        """Return the likely cost and time of a run, and its upper bound, without any call.

        `.usd` holds US dollars: `low`, `likely`, `high`, and `cap`, which a run never exceeds: the smaller of the
        budget's limit and the sum of all worst cases, retries included; None without a bound. `.calls`, `.input` and
        `.output` are calls and tokens, `.seconds` seconds. `.stages` has the same for each stage, and its `.lines`
        for each role and model. `.unpriced` names the models of unknown price. With `batch`, calls that go in batches
        are at that price, and their waits are left out of the time. Schema, tools and turns of `answer` are input.

        Raises the errors of `start` except for a missing key, which is a note.

        >>> quote = fusion.quote("Compare the two offers.", inputs={"context": text}, budget={"usd": 0.5})
        >>> quote.usd.likely <= quote.usd.cap
        True
        """
        from fusion.quote.quote import quoted  # a run needs none of it

        self._launcher.loop.check_outside("a run cannot be quoted")
        given: RunOptions = {"pipeline": pipeline, "inputs": inputs, "budget": budget, "batch": batch}
        given["answer"] = answer
        return quoted(self._spec(prompt, prepare_without_keys, **given))

    def answer_effects(
        self, answer: AnswerOptions | Mapping[str, Any], *, pipeline: PipelineGiven = DEFAULT_PIPELINE
    ) -> AnswerEffects:
        """Return the options of an answer that a run of this pipeline would ignore or be refused for, with reasons.

        >>> fusion.answer_effects({"seed": 1, "max_tokens": 500}, pipeline="vote").ignored
        {'seed': ..., 'max_tokens': ...}
        """
        spec = prepare_without_keys(self._cast, self._loader.load(pipeline), make=prepare_many)
        return effects(replace(spec, answer=answer_of(answer)))

    def drill(
        self,
        prompt: Prompt = None,
        *,
        without: Sequence[str] = (),
        pipeline: PipelineGiven = DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
    ) -> "Drill":
        """Return the stages that would die without some models, and the price of the others, without any call.

        `without` has patterns as those of a policy: "openai", "openai/gpt-5.6", "family:gpt", "region:us". By default
        each provider of the pipeline is taken away in turn.
        """
        from fusion.quote.drill import drilled  # a run needs none of it

        self._launcher.loop.check_outside("a run cannot be drilled")
        return drilled(self._spec(prompt, prepare_without_keys, pipeline=pipeline, inputs=inputs), without)

    # Pipelines, models and kept runs.

    @property
    def profile(self) -> Profile:
        """The profile in use: as given, else by FUSION_PROFILE, else by the keys that are set, else `local`."""
        return self._cast.profile

    @property
    def settings(self) -> Settings:
        """The settings in use."""
        return self._cast.settings

    @property
    def learned(self) -> "Learned":
        """The figures of models that benchmarks have measured here, by label. Raises UsageError if damaged.

        >>> fusion.learned.figures("math", "openai/gpt-5-mini")
        """
        from fusion.models.catalog.learned import learned_file, read_learned  # most runs need none of it

        return read_learned(learned_file(self.settings))

    def load(self, pipeline: PipelineGiven) -> Pipeline:
        """Return a pipeline by name, path or object, checked. Raises PipelineError with every mistake."""
        return self._loader.load(pipeline).pipeline

    def changed(self, pipeline: PipelineGiven, stages: Mapping[str, Stage], **more: Any) -> LoadedPipeline:
        """Return a pipeline with other stages under the same names, and other fields; it keeps its files."""
        return self._loader.load(pipeline).changed(stages, **more)

    def files(self, pipeline: PipelineGiven) -> tuple[Path, ...]:
        """Return every file of a pipeline: its own, templates, schemas, and those of nested pipelines."""
        return self._loader.load(pipeline).files

    def using(
        self,
        *,
        profile: str | None = None,
        roles: Mapping[str, RoleGiven] | None = None,
        model: str | Model | None = None,
        defaults: Defaults | None = None,
        answer_tokens: int | None = None,
        kept: bool = True,
        shared: ReplyCache | None = None,
    ) -> "Fusion":
        """Return a Fusion with other models that shares this one's loop, slots and connections.

        Options that are not given keep their values. With `kept=False` its runs are not stored. `shared` replaces
        the store as the cache of runs with `cache: shared`. `answer_tokens` is the most output tokens of an answer,
        with all its continuations; a lower `max_tokens` of a stage counts. Closing this Fusion closes the other too.
        """
        other = copy.copy(self)
        other._finalizer = functools.partial(_kept_by, self)
        other._cast = self._cast.changed(
            profile=profile, roles=roles, model=model, defaults=defaults, answer_tokens=answer_tokens
        )
        other._launcher = self._launcher.with_cast(other._cast, kept=kept, shared=shared)
        return other

    def warm(self) -> None:
        """Load the libraries of the models, and start the loop, ahead of the first call; it takes seconds."""
        self._launcher.loop.check_outside("a Fusion cannot be warmed")
        self._launcher.warm().done.result()

    async def awarm(self) -> None:
        """Await `warm`, as in the start of a server."""
        await asyncio.wrap_future(self._launcher.warm().done)

    def close(self) -> None:
        """Stop all runs and release every thread, socket and process; no run can be started afterwards."""
        self._launcher.loop.check_outside("a Fusion cannot be closed")
        self._finalizer()

    async def aclose(self) -> None:
        """Await `close`."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def store(self) -> Store:
        """The store of kept runs. Raises UsageError without one."""
        store = self._launcher.recorder.store
        if store is None:
            raise UsageError("runs are not kept here: give a place for them, as in `Fusion(store=True)`")
        return store

    @property
    def runs(self) -> "History":
        """The kept runs, to list, read, compare and remove. Raises UsageError without a store."""
        from fusion.client.history import History  # a run needs none of it

        self.store.flush()
        return History(self.store)

    @property
    def keeps(self) -> Content | None:
        """The parts of prompts and replies that are kept; None without a store."""
        recorder = self._launcher.recorder
        return None if recorder.store is None else recorder.content

    def _check_startable(self) -> None:
        self._launcher.loop.check_outside("a run cannot be started")
        self._launcher.loop.check()

    def _spec(
        self,
        prompt: Prompt,
        prepare: Callable[..., RunSpec] = prepare,
        schema: type[BaseModel] | None = None,
        **options: Unpack[RunOptions],
    ) -> RunSpec:
        check_options(options, RunOptions)
        loaded = self._loader.load(options.get("pipeline", DEFAULT_PIPELINE))
        answer = answer_of(options.get("answer"))
        if schema is not None and answer is not None and answer.json_schema is not None:
            raise UsageError("`schema` and `answer.json_schema` both shape the answer; give one")
        if schema is not None:
            loaded = replace(loaded, pipeline=shaped_output(loaded.pipeline, schema_of(schema)))
        return prepare(
            self._cast,
            loaded,
            request=request_of(prompt),
            inputs=options.get("inputs") or {},
            limits=limits_of(options.get("budget")) or self._budget,
            cache=options.get("cache"),
            sample=options.get("sample", 0),
            batch=options.get("batch", False),
            answer=answer,
        )


@functools.cache
def _default(process: int) -> Fusion:
    return Fusion()


def complete(
    prompt: Prompt = None, *, schema: type[BaseModel] | None = None, **options: Unpack[RunOptions]
) -> Result:
    """Call `complete` on the one Fusion that the process keeps."""
    return _default(os.getpid()).complete(prompt, schema=schema, **options)


def warm() -> None:
    """Call `warm` on the one Fusion that the process keeps."""
    _default(os.getpid()).warm()


# For jobs, servers and benchmarks.


def loaded(fusion: Fusion, pipeline: PipelineGiven) -> LoadedPipeline:
    """Return a pipeline with all that it runs. Raises PipelineError with every mistake."""
    return fusion._loader.load(pipeline)


def asks_person(fusion: Fusion, pipeline: PipelineGiven) -> bool:
    """Return True for a pipeline with a stage that asks a person."""
    return any(stage.asks_person for stage in fusion._loader.load(pipeline).stages.values())


def check_run(fusion: Fusion, prompt: Prompt = None, **options: Unpack[RunOptions]) -> None:
    """Raise the UsageError that `start` would raise, without starting a run."""
    fusion._spec(prompt, **options)


def first_models(fusion: Fusion, prompt: Prompt = None, **options: Unpack[RunOptions]) -> dict[str, str]:
    """Return the first model of each role of a run, by id, without starting it. Raises the UsageError of `start`."""
    return {role: one.models[0].id for role, one in fusion._spec(prompt, **options).roles.items()}


def count_spend(fusion: Fusion, within: Budget, amount: Amount, *, earlier: bool = False) -> None:
    """Count past spend in a budget that runs share, even beyond its limits.

    Spend of `earlier` processes does not count in the budgets above it.
    """
    loop = fusion._launcher.loop
    loop.check_outside("nothing can be counted")

    async def count() -> None:  # on the loop of the runs' own calls
        (within.count_here if earlier else within.count)(amount)

    loop.submit(count()).done.result()


def shared_budget(fusion: Fusion, name: str | None) -> Budget | None:
    """Return the budget of a `[budgets.NAME]` that all runs of a Fusion share. Raises UsageError."""
    return fusion._launcher.budgets.of(name)


@contextmanager
def sole_run(fusion: Fusion, prompt: Prompt = None, **options: Unpack[RunOptions]) -> Iterator[str | None]:
    """Yield the id of the latest run of the same spec that can be resumed, if any; for scheduled jobs.

    Only one process at a time is in the block for a spec. Raises RunBusyError if another stays in it for long.
    """
    fingerprint = Record.of(fusion._spec(prompt, **options), fusion._cast.own).fingerprint
    with exclusive(fusion.store, f"begin-{fingerprint[:24]}"):
        rows = fusion.store.runs(RunFilter(fingerprint=fingerprint), limit=1)
        yield next((row.run_id for row in rows if _is_resumable(row)), None)
        fusion.store.flush()


def _is_resumable(row: RunRow) -> bool:
    return row.status not in ("ok", "partial") and row.content == "full"


def _waited(handle: RunHandle, schema: type[BaseModel] | None) -> Result:
    try:
        result = handle.wait()
    except KeyboardInterrupt:
        handle.cancel()
        raise
    return checked_result(handle, result, schema)


def checked_result(handle: RunHandle, result: Result, schema: type[BaseModel] | None = None) -> Result:
    """Return the Result of a run that has an answer; raise RunFailed otherwise."""
    if result.status == "failed":
        message = result.error.message if result.error else "the run failed"
        raise RunFailed(message, result, exit_code=handle.exit_code) from handle.cause
    if schema is None or result.data is None:
        return result
    try:
        return result.model_copy(update={"data": instance_of(schema, result.data)})
    except ValidationError as error:
        raise RunFailed(f"the answer's data is no {schema.__name__}: {error}", result) from error


def answered_result(handle: RunHandle, result: Result) -> Result:
    """Return the Result of a run that has an answer; raise RunFailed, or WaitingError if it waits for a person."""
    result = checked_result(handle, result)
    if result.status == "waiting":
        places = ", ".join(repr(gate.place) for gate in result.waiting)
        raise WaitingError(
            f"run {result.run_id} waits for a person at {places}: `fusion approve {result.run_id}` answers"
        )
    return result


def _kept_by(whole: Fusion) -> None:
    """Close nothing: the loop belongs to another Fusion, which lives as long as this reference."""
