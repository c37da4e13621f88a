"""Fusion: the Python door. Runs pipelines from scripts, threads, running event loops and notebooks alike."""

import asyncio
import copy
import functools
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from pydantic import BaseModel, ValidationError

from fusion.client.diff import since_then
from fusion.client.handle import EndedRun, Over, RunHandle
from fusion.client.history import History
from fusion.client.launcher import Launcher, Watch, shut_down
from fusion.client.options import DEFAULT_PIPELINE, Prompt, RunOptions, check_options, tags_of
from fusion.client.stream import AsyncRunStream, RunStream
from fusion.core.budget import Amount, Budget, BudgetGiven, limits_of, over
from fusion.core.config import Settings
from fusion.core.errors import RunFailed, UsageError, close_names
from fusion.core.events import EventBase, to_both
from fusion.core.params import Defaults
from fusion.core.result import Result
from fusion.engine.durable import KeptRun, record_of, result_of
from fusion.engine.manifest import Record
from fusion.engine.roles import Cast, RoleGiven, check_looked_at
from fusion.engine.run_spec import Prepared, Terms
from fusion.models.base import Model
from fusion.models.gateway import Gateway
from fusion.models.profiles import Profile
from fusion.models.wrappers.cache import ReplyCache
from fusion.pipeline.inputs import filled, request_of, schema_of, shaped_output
from fusion.pipeline.loader import Loader, PipelineGiven
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library
from fusion.quote.preview import Given, Preview, preview
from fusion.quote.quote import Quote, quoted
from fusion.store.base import Store
from fusion.store.lookup import StoreGiven, exclusive, find_run, resolve_store
from fusion.store.rows import Content, RunFilter, RunRow


class Fusion:
    """Runs pipelines.

    `profile` names a set of models ("local", "openai", …), by default that of the first key that is set. `roles`
    sets single roles: a model's id, a `RoleSpec`, or a `Model` of your own; `model` sets all of them. `budget` is
    what a run may spend: `{"usd": 0.5, "tokens": …, "calls": …, "seconds": …}`; it goes before the pipeline's own,
    and under a dollar limit given here a model of unknown price is refused.

    With `store` every run is kept, so that one that dies can be taken up again: a path, a Store, or True for the
    place that FUSION_STORE, fusion.toml or the platform names. `content` is what is kept of prompts and replies.

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
    ) -> None:
        settings = settings or Settings.from_environment()
        self._budget = limits_of(budget)
        kept_in, is_ours = resolve_store(store, settings)
        self._cast = Cast(
            settings,
            Gateway(settings, models=models),
            models=models or {},
            profile=profile,
            roles=roles or {},
            model=model,
        )
        self._loader = Loader(Library.standard(user=settings.library_dir))
        self._launcher = Launcher(self._cast, kept_in, content or settings.store.content)
        own_store = kept_in if is_ours else None
        self._finalizer: Callable[[], object] = weakref.finalize(self, shut_down, self._launcher, own_store)

    # Complete: a prompt in, a Result out.

    def complete(
        self, prompt: Prompt = None, *, schema: type[BaseModel] | None = None, **options: Unpack[RunOptions]
    ) -> Result:
        """Run a pipeline to its end.

        `prompt` is a text or OpenAI-style messages and fills the pipeline's first required input; `inputs` fills
        the others by name. Of messages the last one asks, the conversation before it stands above; a system prompt
        stands above the pipeline's own in every call; pictures and documents (content parts with a data URL) are
        shown wherever the request is printed. An input of `format: image` or `file` takes a Path, bytes or data URL.
        With `schema`, a pydantic class, the answer's data comes back as one in `.data`. `RunOptions` has the rest.

        Raises RunFailed, with the Result in `.result`, if there is no answer; UsageError kinds before any call.
        """
        return _waited(self.start(prompt, schema=schema, **options), schema)

    async def acomplete(
        self, prompt: Prompt = None, *, schema: type[BaseModel] | None = None, **options: Unpack[RunOptions]
    ) -> Result:
        """`complete`, awaited. Cancelling it stops the run."""
        handle = self.start(prompt, schema=schema, **options)
        return _checked_result(handle, await handle.wait_async(), schema)

    def stream(self, prompt: Prompt = None, **options: Unpack[RunOptions]) -> RunStream:
        """Run a pipeline and iterate over the pieces of its answer; `.result` holds the Result at the end."""
        stream = RunStream()
        options["on_event"] = to_both(stream.sink, options.get("on_event"))
        handle = self.start(prompt, stream=True, **options)
        return stream.of(handle, functools.partial(_checked_result, handle, schema=None))

    def astream(self, prompt: Prompt = None, **options: Unpack[RunOptions]) -> AsyncRunStream:
        """`stream` for `async for`, on the caller's running loop."""
        stream = AsyncRunStream()
        options["on_event"] = to_both(stream.sink, options.get("on_event"))
        handle = self.start(prompt, stream=True, **options)
        return stream.of(handle, functools.partial(_checked_result, handle, schema=None))

    def start(
        self,
        prompt: Prompt = None,
        *,
        schema: type[BaseModel] | None = None,
        stream: bool = False,
        within: Budget | None = None,
        **options: Unpack[RunOptions],
    ) -> RunHandle:
        """Begin a run and return at once. With `stream`, the answer's pieces are among the events.

        `within` is a budget of several runs of this Fusion, which all of them together hold to.

        Raises PipelineError, InputError, MissingKeyError or another UsageError before any call is made.
        """
        self._check_startable()
        prepared = self._prepared(prompt, schema=schema, **options)
        tags = tags_of(options.get("tags"))
        watch = Watch(options.get("on_event"), stream=stream, within=within, tags=tags)
        return self._launcher.launch(prepared, self._launcher.keep(prepared, tags), watch, self)

    def count(self, within: Budget, amount: Amount) -> None:
        """Count in a budget of several runs what was spent elsewhere: afterwards, and so past its limits too."""
        self._launcher.loop.check_outside("nothing can be counted")

        async def counting() -> None:  # where the runs' own calls are
            within.count(amount)

        self._launcher.loop.submit(counting()).done.result()

    # Again: a run that ended before its answer, or one that is to have another.

    def resume(
        self,
        run_id: str,
        *,
        pipeline: PipelineGiven | None = None,
        budget: BudgetGiven = None,
        on_event: Callable[[EventBase], None] | None = None,
    ) -> Result:
        """Take up a run that ended before its answer, by its id or the beginning of it; `store` has to be given.

        It goes on as it was begun: with the pipeline, templates, inputs, models and limits of then. Finished calls
        are answered from the store and not paid again, those that were under way are made once more; what was spent
        counts. `budget` goes before the limits of then, for a run that was stopped by them. A run that has its answer
        gives it again.

        With `pipeline`, an edited one: a new run on the same inputs, whose calls are answered from that one wherever
        they are the same. Raises RunBusyError where somebody is running it, StoreError where its prompts were not
        kept, and what `complete` raises.
        """
        return _waited(self.start_resume(run_id, pipeline=pipeline, budget=budget, on_event=on_event), None)

    async def aresume(
        self,
        run_id: str,
        *,
        pipeline: PipelineGiven | None = None,
        budget: BudgetGiven = None,
        on_event: Callable[[EventBase], None] | None = None,
    ) -> Result:
        """`resume`, awaited. Cancelling it stops the run."""
        handle = self.start_resume(run_id, pipeline=pipeline, budget=budget, on_event=on_event)
        return _checked_result(handle, await handle.wait_async(), None)

    def start_resume(
        self,
        run_id: str,
        *,
        pipeline: PipelineGiven | None = None,
        budget: BudgetGiven = None,
        on_event: Callable[[EventBase], None] | None = None,
        stream: bool = False,
    ) -> RunHandle:
        """Begin to resume a run and return at once; see `resume`."""
        self._check_startable()
        row, limits = find_run(self.store, run_id), limits_of(budget) or self._budget
        watch = Watch(on_event, stream=stream)
        if pipeline is not None:
            prepared = self._branched(record_of(self.store, row), pipeline, budget)
            return self._launcher.launch(prepared, self._launcher.keep(prepared, row.tags, row), watch, self)
        lock = self.store.lock(row.run_id)
        try:
            row = find_run(self.store, row.run_id)  # as it is now that nobody else can change it
            if row.status in ("ok", "partial"):
                lock.release()
                return self._ended(row)
            record = record_of(self.store, row)
            terms = record.terms()
            if limits is not None:
                terms = replace(terms, limits=over(terms.limits, limits))
            roles = record.roles(self._cast.gateway, self._cast.own)
            prepared = Prepared(record.made(self._loader.library), roles, terms)
            kept = KeptRun.resume(self.store, row, lock, retry_budget=limits is not None)
            kept.say(since_then(record, self._loader))
        except BaseException:
            lock.release()
            raise
        return self._launcher.launch(prepared, kept, watch, self)

    def unfinished(self, prompt: Prompt = None, **options: Unpack[RunOptions]) -> str | None:
        """The id of the latest run of the same pipeline, inputs and models, if it has no answer and can be resumed.

        Somebody may be at it, which `resume` says.
        """
        return self._unfinished(self._fingerprint(prompt, **options))

    @contextmanager
    def sole(self, prompt: Prompt = None, **options: Unpack[RunOptions]) -> Iterator[str | None]:
        """`unfinished`, and within the block nobody else looks for such a run to begin one: for jobs of a clock.

        Raises RunBusyError where somebody else is within for long.
        """
        fingerprint = self._fingerprint(prompt, **options)
        with exclusive(self.store, f"begin-{fingerprint[:24]}"):
            yield self._unfinished(fingerprint)
            self.store.flush()

    def _fingerprint(self, prompt: Prompt, **options: Unpack[RunOptions]) -> str:
        made, roles, terms = self._prepared(prompt, **options)
        return Record.of(made, roles, terms, self._cast.own).fingerprint

    def _unfinished(self, fingerprint: str) -> str | None:
        rows = self.store.runs(RunFilter(fingerprint=fingerprint), limit=1)
        return next(
            (row.run_id for row in rows if row.status not in ("ok", "partial") and row.content == "full"), None
        )

    def _branched(self, record: Record, pipeline: PipelineGiven, budget: BudgetGiven) -> Prepared:
        """An edited pipeline on the inputs and, where nothing else is said, the models of an earlier run."""
        before = record.terms()
        made = self._cast.with_defaults(self._loader.load(pipeline))
        known = {name: value for name, value in before.inputs.items() if name in made.pipeline.inputs}
        request, values = filled(made.pipeline, None, known)
        roles = self._cast.of(made, None if record is None else record.undeclared)
        check_looked_at(made.pipeline, made.prompts, roles, request, values)
        limits = limits_of(budget) or self._budget
        terms = Terms(
            inputs=values,
            request=request,
            limits=over(made.pipeline.budget, limits),
            strict_usd=limits is not None and limits.usd is not None,
            profile=self.profile.name if self._cast.profile_given else before.profile,
            cache=before.cache,
            sample=before.sample,
        )
        return Prepared(made, roles, terms)

    def _prepared(
        self, prompt: Prompt, *, schema: type[BaseModel] | None = None, **options: Unpack[RunOptions]
    ) -> Prepared:
        """All that a run of this would be made of, checked."""
        check_options(options)
        made = self._loader.load(options.get("pipeline", DEFAULT_PIPELINE))
        if schema is not None:
            made = replace(made, pipeline=shaped_output(made.pipeline, schema_of(schema)))
        made = self._cast.with_defaults(made)
        request, values = filled(made.pipeline, request_of(prompt), options.get("inputs") or {})
        roles = self._cast.of(made)
        check_looked_at(made.pipeline, made.prompts, roles, request, values)
        limits = limits_of(options.get("budget")) or self._budget
        terms = Terms(
            inputs=values,
            request=request,
            limits=over(made.pipeline.budget, limits),
            strict_usd=limits is not None and limits.usd is not None,
            profile=self.profile.name,
            cache=options.get("cache"),
            sample=options.get("sample", 0),
        )
        return Prepared(made, roles, terms)

    def _ended(self, row: RunRow) -> RunHandle:
        result = result_of(self.store, row)
        return RunHandle(EndedRun(result), Over(result), self._launcher.loop, self)

    def preview(
        self,
        prompt: Prompt = None,
        *,
        pipeline: PipelineGiven = DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
        budget: BudgetGiven = None,
        given: Given | None = None,
        stage: str | None = None,
        item: int | None = None,
    ) -> Preview:
        """What a run would ask, and its bounds, without any call.

        What depends on results that are not there yet is named as `missing`; `given` puts values in their place, by
        `stage` or `stage.field`. With `stage` it is of that one only, with `item` (from 0) of that item only.

        Raises what `start` raises, and PromptError for a template that fails on what it reads.
        """
        self._launcher.loop.check_outside("a run cannot be looked at beforehand")
        made = self._loader.load(pipeline)
        if stage is not None and stage not in made.pipeline.stages:
            raise UsageError(f"no stage {stage!r}{close_names(stage, made.pipeline.stages)}")
        subject = self._prepared(prompt, pipeline=pipeline, inputs=inputs, budget=budget).subject
        looking = preview(subject, given=given, stage=stage, item=item)
        return self._launcher.loop.submit(looking).done.result()

    def quote(
        self,
        prompt: Prompt = None,
        *,
        pipeline: PipelineGiven = DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
        budget: BudgetGiven = None,
    ) -> Quote:
        """What a run of this will probably cost and take, and what it can cost at most, without any call.

        `.usd` holds US dollars: `low`, `likely`, `high`, and `cap`, which can never be passed: the smaller of the
        budget's limit and the sum of all worst cases, attempts made again included; None where there is no bound.
        `.calls`, `.input` and `.output` are calls and tokens, `.seconds` seconds, `.stages` the same for each stage,
        and in its `.lines` for each role and model; `.unpriced` names the models whose price nobody knows.

        Raises what `start` raises.

        >>> quote = fusion.quote("Compare the two offers.", inputs={"context": text}, budget={"usd": 0.5})
        >>> quote.usd.likely <= quote.usd.cap
        True
        """
        self._launcher.loop.check_outside("a run cannot be quoted")
        return quoted(self._prepared(prompt, pipeline=pipeline, inputs=inputs, budget=budget).subject)

    # What there is.

    @property
    def profile(self) -> Profile:
        """The profile in use: as given, else by FUSION_PROFILE, else by the keys that are set, else `local`."""
        return self._cast.profile

    def load(self, pipeline: PipelineGiven) -> Pipeline:
        """A pipeline by name, path or object, checked. Raises PipelineError with every mistake."""
        return self._loader.load(pipeline).pipeline

    def files(self, pipeline: PipelineGiven) -> tuple[Path, ...]:
        """Every file that a pipeline is made of: its own, its templates, those of the pipelines that it runs."""
        return self._loader.files(pipeline)

    def using(
        self,
        *,
        profile: str | None = None,
        roles: Mapping[str, RoleGiven] | None = None,
        model: str | Model | None = None,
        defaults: Defaults | None = None,
        kept: bool = True,
        shared: ReplyCache | None = None,
    ) -> "Fusion":
        """A Fusion with other models, on the loop, slots and sockets of this one, which closes them.

        What is not given here stays as this one has it. Of what is not `kept`, nothing goes to this one's store.
        `shared` is where runs with `cache: shared` find replies, in place of the store.
        """
        other = copy.copy(self)
        other._finalizer = functools.partial(_kept_by, self)
        other._cast = self._cast.changed(profile=profile, roles=roles, model=model, defaults=defaults)
        other._launcher = self._launcher.with_cast(other._cast, kept=kept, shared=shared)
        return other

    def close(self) -> None:
        """Stop what still runs and give back every thread, socket and process; from then on no run can be started."""
        self._launcher.loop.check_outside("a Fusion cannot be closed")
        self._finalizer()

    async def aclose(self) -> None:
        """`close`, awaited."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> "Fusion":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> "Fusion":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def store(self) -> Store:
        """Where runs are kept. Raises UsageError where they are not."""
        if self._launcher.store is None:
            raise UsageError("runs are not kept here: give a place for them, as in `Fusion(store=True)`")
        return self._launcher.store

    @property
    def runs(self) -> History:
        """The runs that are kept, to be listed, read, compared and removed, those under way as they are by now.

        Raises UsageError without a store.
        """
        self.store.flush()
        return History(self.store)

    @property
    def keeps(self) -> Content | None:
        """What is kept of the prompts and replies of runs; None where runs are not kept."""
        return None if self._launcher.store is None else self._launcher.content

    def _check_startable(self) -> None:
        self._launcher.loop.check_outside("a run cannot be started")
        self._launcher.loop.check()


@functools.cache
def _default(process: int) -> Fusion:
    return Fusion()


def complete(
    prompt: Prompt = None, *, schema: type[BaseModel] | None = None, **options: Unpack[RunOptions]
) -> Result:
    """`Fusion().complete(…)` on one Fusion that the process keeps."""
    return _default(os.getpid()).complete(prompt, schema=schema, **options)


def _waited(handle: RunHandle, schema: type[BaseModel] | None) -> Result:
    try:
        result = handle.wait()
    except KeyboardInterrupt:
        handle.cancel()
        raise
    return _checked_result(handle, result, schema)


def _checked_result(handle: RunHandle, result: Result, schema: type[BaseModel] | None) -> Result:
    """The Result of a run that gave an answer; raises RunFailed for one that did not."""
    if result.status == "failed":
        message = result.error.message if result.error else "the run failed"
        raise RunFailed(message, result, exit_code=handle.exit_code) from handle.cause
    if schema is None or result.data is None:
        return result
    try:
        return result.model_copy(update={"data": schema.model_validate(result.data)})
    except ValidationError as error:
        raise RunFailed(f"the answer's data is no {schema.__name__}: {error}", result) from error


def _kept_by(whole: Fusion) -> None:
    """Close nothing: the loop is that of another Fusion, which lives as long as this is held."""
