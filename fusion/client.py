"""Fusion: the Python door. Runs pipelines from scripts, threads, running event loops and notebooks alike."""

import asyncio
import copy
import functools
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, Unpack

from pydantic import BaseModel, ValidationError

from fusion.budget import Budget
from fusion.changes import differences, since_then
from fusion.config import Settings
from fusion.engine import Origin, Run
from fusion.errors import RunFailed, UsageError
from fusion.events import EventBase, Sink
from fusion.graph import Nested, stages_within
from fusion.handle import EndedRun, Over, RunHandle
from fusion.history import History
from fusion.inputs import check_looked_at, filled, request_of, schema_of, shaped_output
from fusion.kept import KeptRun, record_of, result_of
from fusion.library import Library, close_names
from fusion.loading import Loader, PipelineGiven
from fusion.loop import LoopThread
from fusion.models.base import Model
from fusion.models.cached import StoreCache
from fusion.models.gateway import Gateway
from fusion.models.keeping import Keeping
from fusion.models.profiles import Profile, choose
from fusion.preview import Given, Preview, preview
from fusion.quote import Quote, quoted
from fusion.record import Made, Record, Terms
from fusion.result import Result
from fusion.roles import RoleModels, resolve, used_roles
from fusion.spec import Pipeline
from fusion.standing import StoreGiven, found, opened
from fusion.store.base import Content, RunFilter, RunRow, Store
from fusion.streams import AsyncRunStream, RunStream
from fusion.supposing import Subject
from fusion.terms import CacheMode, Defaults, RoleSpec
from fusion.types import Limits

__all__ = ["Fusion", "RunOptions", "complete"]

RoleGiven = str | Model | RoleSpec
Prompt = str | Sequence[Mapping[str, Any]] | None
BudgetGiven = Limits | Mapping[str, Any] | None
_DEFAULT_PIPELINE = "plan-execute-review"
_NO_TAGS: Mapping[str, str] = {}
_NOT_SHARED = "`cache: shared` has no store to share: replies are found again within this run only"


class RunOptions(TypedDict, total=False):
    """What may be said of any run.

    `pipeline` is a name, a path or an object; `inputs` are given by name. `budget` goes before the pipeline's own.
    `on_event` is called with every event, on the private loop's thread. `tags` are kept with the run. `cache` goes
    before what the pipeline says; where it may answer, `sample` tells repeats of a run apart that are to have
    answers of their own.
    """

    pipeline: PipelineGiven
    inputs: Mapping[str, Any] | None
    budget: BudgetGiven
    on_event: Callable[[EventBase], None] | None
    tags: Mapping[str, str] | None
    cache: CacheMode | None
    sample: int


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
        self._settings = settings or Settings.from_environment()
        self._profile_given = profile
        self._budget = _limits(budget)
        self._store, self._owns_store = opened(store, self._settings)
        self._content: Content = content or self._settings.store.content
        self._shared = None if self._store is None else StoreCache(self._store)
        self._gateway = Gateway(self._settings, models=models, ledgered=self._store is not None)
        self._own = {*(models or {})}
        self._roles = {role: self._spec(given) for role, given in (roles or {}).items()}
        self._model = None if model is None else self._spec(model)
        self._loader = Loader(Library.standard(user=self._settings.library_dir))
        self._lock = threading.Lock()
        self._loop = LoopThread()
        own_store = self._store if self._owns_store else None
        self._finalizer: Callable[[], object] = weakref.finalize(
            self, _shut_down, self._loop, self._gateway, own_store
        )

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
        options["on_event"] = _both(stream.sink, options.get("on_event"))
        handle = self.start(prompt, stream=True, **options)
        return stream.of(handle, functools.partial(_checked_result, handle, schema=None))

    def astream(self, prompt: Prompt = None, **options: Unpack[RunOptions]) -> AsyncRunStream:
        """`stream` for `async for`, on the caller's running loop."""
        stream = AsyncRunStream()
        options["on_event"] = _both(stream.sink, options.get("on_event"))
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
        _check_options(options)
        made = self._loader.load(options.get("pipeline", _DEFAULT_PIPELINE))
        if schema is not None:
            made = replace(made, pipeline=shaped_output(made.pipeline, schema_of(schema)))
        made = self._with_defaults(made)
        request, values = filled(made.pipeline, request_of(prompt), options.get("inputs") or {})
        roles = self._roles_of(made, self._given_roles(made))
        check_looked_at(made.pipeline, made.prompts, roles, request, values)
        limits = _limits(options.get("budget")) or self._budget
        terms = Terms(
            inputs=values,
            request=request,
            limits=_merged(made.pipeline.budget, limits),
            strict_usd=limits is not None and limits.usd is not None,
            profile=self.profile.name,
            cache=options.get("cache"),
            sample=options.get("sample", 0),
        )
        tags = _tags(options.get("tags"))
        kept = self._keep(made, roles, terms, tags)
        on_event = options.get("on_event")
        return self._run(made, roles, terms, kept, on_event, stream=stream, tags=tags, within=within)

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
        row = found(self.store, run_id)
        limits = _limits(budget) or self._budget
        if pipeline is not None:
            return self._branch(row, pipeline, limits, on_event, stream=stream)
        lock = self.store.lock(row.run_id)
        try:
            row = found(self.store, row.run_id)  # as it is now that nobody else can change it
            if row.status in ("ok", "partial"):
                lock.release()
                return self._ended(row)
            record = record_of(self.store, row)
            made, terms = record.made(self._loader.library), record.terms()
            roles = record.roles(self._gateway, self._own)
            if limits is not None:
                terms = replace(terms, limits=_merged(terms.limits, limits))
            kept = KeptRun.resume(self.store, row, lock, retry_budget=limits is not None)
            kept.say(since_then(record, self._loader))
        except BaseException:
            lock.release()
            raise
        return self._run(made, roles, terms, kept, on_event, stream=stream)

    def unfinished(self, prompt: Prompt = None, **options: Unpack[RunOptions]) -> str | None:
        """The id of the latest run of the same pipeline, inputs and models, if it has no answer and can be resumed.

        Somebody may be at it, which `resume` says.
        """
        _check_options(options)
        made = self._with_defaults(self._loader.load(options.get("pipeline", _DEFAULT_PIPELINE)))
        request, values = filled(made.pipeline, request_of(prompt), options.get("inputs") or {})
        roles = self._roles_of(made, self._given_roles(made))
        terms = Terms(values, request, Limits(), False, self.profile.name, None, options.get("sample", 0))
        fingerprint = Record.of(made, roles, terms, self._own).fingerprint
        rows = self.store.runs(RunFilter(fingerprint=fingerprint), limit=1)
        return next(
            (row.run_id for row in rows if row.status not in ("ok", "partial") and row.content == "full"), None
        )

    def _branch(
        self,
        row: RunRow,
        pipeline: PipelineGiven,
        limits: Limits | None,
        on_event: Sink | None,
        *,
        stream: bool,
    ) -> RunHandle:
        """A new run of an edited pipeline on the inputs of another run, whose calls it may use."""
        record = record_of(self.store, row)
        before = record.terms()
        made = self._with_defaults(self._loader.load(pipeline))
        known = {name: value for name, value in before.inputs.items() if name in made.pipeline.inputs}
        request, values = filled(made.pipeline, None, known)
        roles = self._roles_of(made, self._given_roles(made, record))
        check_looked_at(made.pipeline, made.prompts, roles, request, values)
        terms = Terms(
            inputs=values,
            request=request,
            limits=_merged(made.pipeline.budget, limits),
            strict_usd=limits is not None and limits.usd is not None,
            profile=self.profile.name if self._profile_given else before.profile,
            cache=before.cache,
            sample=before.sample,
        )
        kept = self._keep(made, roles, terms, row.tags, parent=row)
        return self._run(made, roles, terms, kept, on_event, stream=stream)

    def _ended(self, row: RunRow) -> RunHandle:
        result = result_of(self.store, row)
        return RunHandle(EndedRun(result), Over(result), self._loop, self)

    def preview(
        self,
        prompt: Prompt = None,
        *,
        pipeline: PipelineGiven = _DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
        budget: Limits | Mapping[str, Any] | None = None,
        given: Given | None = None,
        stage: str | None = None,
        item: int | None = None,
    ) -> Preview:
        """What a run would ask, and its bounds, without any call.

        What depends on results that are not there yet is named as `missing`; `given` puts values in their place, by
        `stage` or `stage.field`. With `stage` it is of that one only, with `item` (from 0) of that item only.

        Raises what `start` raises, and PromptError for a template that fails on what it reads.
        """
        self._loop.check_outside("a run cannot be looked at beforehand")
        loaded = self._loader.load(pipeline)
        request, values = filled(loaded.pipeline, request_of(prompt), inputs or {})
        if stage is not None and stage not in loaded.pipeline.stages:
            raise UsageError(f"no stage {stage!r}{close_names(stage, loaded.pipeline.stages)}")
        roles = self._roles_of(loaded, self._given_roles(loaded))
        check_looked_at(loaded.pipeline, loaded.prompts, roles, request, values)
        looking = preview(
            loaded.pipeline,
            prompts=loaded.prompts,
            roles=roles,
            profile=self.profile.name,
            inputs=values,
            request=request,
            limits=_merged(loaded.pipeline.budget, _limits(budget) or self._budget),
            near=loaded.near,
            nested=loaded.nested,
            given=given,
            stage=stage,
            item=item,
        )
        return self._loop.submit(looking).done.result()

    def quote(
        self,
        prompt: Prompt = None,
        *,
        pipeline: PipelineGiven = _DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
        budget: Limits | Mapping[str, Any] | None = None,
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
        self._loop.check_outside("a run cannot be quoted")
        loaded = self._loader.load(pipeline)
        over = loaded.pipeline.defaults.over(self._settings.defaults)
        checked = loaded.pipeline.model_copy(update={"defaults": over})
        request, values = filled(checked, request_of(prompt), inputs or {})
        roles = self._roles_of(loaded, self._given_roles(loaded))
        check_looked_at(checked, loaded.prompts, roles, request, values)
        limits = _limits(budget) or self._budget
        return quoted(
            Subject(
                checked,
                prompts=loaded.prompts,
                roles=roles,
                profile=self.profile.name,
                inputs=values,
                request=request,
                near=loaded.near,
                nested=loaded.nested,
                limits=_merged(checked.budget, limits),
                by_hand=limits is not None and limits.usd is not None,
            )
        )

    # What there is.

    @property
    def profile(self) -> Profile:
        """The profile in use: as given, else by FUSION_PROFILE, else by the keys that are set, else `local`."""
        return choose(self._settings, self._profile_given)

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
    ) -> "Fusion":
        """A Fusion with other models, on the loop, slots and sockets of this one, which closes them.

        What is not given here stays as this one has it. Of what is not `kept`, nothing goes to this one's store.
        """
        other = copy.copy(self)
        other._finalizer = functools.partial(_kept_by, self)
        if profile is not None:
            other._profile_given = profile
        if roles is not None:
            other._roles = {role: self._spec(given) for role, given in roles.items()}
        if model is not None:
            other._model = self._spec(model)
        if not kept:
            other._store = other._shared = None
        if defaults is not None:
            over = {"defaults": defaults.over(self._settings.defaults)}
            other._settings = self._settings.model_copy(update=over)
        return other

    def close(self) -> None:
        """Stop what still runs and give back every thread, socket and process; from then on no run can be started."""
        self._loop.check_outside("a Fusion cannot be closed")
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
        if self._store is None:
            raise UsageError("runs are not kept here: give a place for them, as in `Fusion(store=True)`")
        return self._store

    @property
    def runs(self) -> History:
        """The runs that are kept, to be listed, read, compared and removed. Raises UsageError without a store."""
        return History(self.store)

    @property
    def keeps(self) -> Content | None:
        """What is kept of the prompts and replies of runs; None where runs are not kept."""
        return None if self._store is None else self._content

    def _check_startable(self) -> None:
        self._loop.check_outside("a run cannot be started")
        self._loop.check()

    def _with_defaults(self, made: Made) -> Made:
        """The pipeline, with the defaults of the user's settings beneath its own."""
        defaults = made.pipeline.defaults.over(self._settings.defaults)
        return replace(made, pipeline=made.pipeline.model_copy(update={"defaults": defaults}))

    def _keep(
        self, made: Made, roles: RoleModels, terms: Terms, tags: Mapping[str, str], parent: RunRow | None = None
    ) -> KeptRun | None:
        """The new run in the store; None where there is none."""
        if self._store is None:
            return None
        record = Record.of(made, roles, terms, self._own)
        kept = KeptRun.begin(self._store, _run_id(), record, content=self._content, tags=tags, parent=parent)
        if parent is not None:
            kept.say(differences(record_of(self._store, parent), record, self._store, parent.run_id))
        return kept

    def _run(
        self,
        made: Made,
        roles: RoleModels,
        terms: Terms,
        kept: KeptRun | None,
        on_event: Sink | None,
        *,
        stream: bool,
        tags: Mapping[str, str] = _NO_TAGS,
        within: Budget | None = None,
    ) -> RunHandle:
        run_id = _run_id() if kept is None else kept.run_id
        origin = Origin(seed=run_id, tags=tags) if kept is None else kept.origin
        caches = {terms.cache} if terms.cache else _caches(made.pipeline, made.nested)
        if self._shared is None and "shared" in caches:
            origin = replace(origin, notes=(*origin.notes, _NOT_SHARED))
        run = Run(
            run_id,
            made.pipeline,
            prompts=made.prompts,
            roles=roles,
            profile=terms.profile,
            inputs=terms.inputs,
            request=terms.request,
            limits=terms.limits,
            strict_usd=terms.strict_usd,
            sink=on_event or _nowhere,
            stream=stream,
            near=made.near,
            nested=made.nested,
            keeping=Keeping(
                None if kept is None else kept.journal, self._shared, mode=terms.cache, sample=terms.sample
            ),
            origin=origin,
            schemas=made.schemas,
            within=within,
        )
        work = self._loop.submit(self._execute(run, kept, list(roles.models)))
        if kept is not None:
            work.done.add_done_callback(lambda _: kept.release())
        return RunHandle(run, work, self._loop, self)

    async def _execute(self, run: Run, kept: KeptRun | None, model_ids: Sequence[str]) -> Result:
        warming = asyncio.ensure_future(self._gateway.warm(i for i in model_ids if i not in self._own))
        interrupted = False
        try:
            result = await run.execute()
        except asyncio.CancelledError:
            result, interrupted = run.interrupted(), True
        finally:
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)
        if kept is not None:
            await kept.end(result, interrupted=interrupted)
            kept.release()
        return result

    def _roles_of(self, made: Made, given: Mapping[str, RoleSpec]) -> RoleModels:
        with self._lock:
            return resolve(
                made.pipeline,
                given=given,
                profile=self.profile,
                gateway=self._gateway,
                settings=self._settings,
                own=self._own,
                nested=made.nested,
            )

    def _given_roles(self, made: Made, record: Record | None = None) -> dict[str, RoleSpec]:
        """The models that the user names; and where nothing is named, those of the run that is gone back to."""
        pipeline = made.pipeline
        used = used_roles(pipeline, made.nested)
        unknown = sorted(set(self._roles) - {*used, *pipeline.roles, *self._settings.roles, *self.profile.roles})
        if unknown:
            raise UsageError(f"no role {unknown[0]!r} in {pipeline.name!r}; it has: {', '.join(sorted(used))}")
        everywhere = {} if self._model is None else dict.fromkeys(used, self._model)
        before = {} if record is None or self._profile_given else record.undeclared
        return {**before, **everywhere, **self._roles}

    def _spec(self, given: RoleGiven) -> RoleSpec:
        if isinstance(given, RoleSpec):
            return given
        if isinstance(given, Model):
            self._gateway.add(given)
            self._own.add(given.info.id)
            return RoleSpec(chain=(given.info.id,))
        return RoleSpec(chain=(given,))


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


def _shut_down(loop: LoopThread, gateway: Gateway, store: Store | None) -> None:
    def close() -> None:
        loop.close(gateway.close)
        if store is not None:
            store.close()

    if loop.inside:  # the last one who held this Fusion was a run of its own
        threading.Thread(target=close, name="fusion-close").start()
    else:
        close()


def _caches(pipeline: Pipeline, nested: Mapping[str, Nested]) -> set[CacheMode]:
    """The caches that a pipeline and those that it runs may use."""
    stages = stages_within(pipeline.stages).values()
    said: set[CacheMode | None] = {pipeline.defaults.cache, *(getattr(stage, "cache", None) for stage in stages)}
    inner = (mode for one in nested.values() for mode in _caches(one.pipeline, one.nested))
    return {mode for mode in said if mode is not None} | set(inner)


def _check_options(given: RunOptions) -> None:
    """Raise TypeError, as Python does for its own, where there is no such option."""
    for name in given.keys() - RunOptions.__annotations__.keys():
        raise TypeError(f"unexpected keyword argument {name!r}{close_names(name, RunOptions.__annotations__)}")


def _tags(given: Mapping[str, str] | None) -> dict[str, str]:
    tags = dict(given or {})
    for name, value in tags.items():
        if not (isinstance(name, str) and isinstance(value, str) and name and "=" not in name):
            raise UsageError(f"tag {name!r}: {value!r}: give a text by a name without =: {{'team': 'search'}}")
    return tags


def _kept_by(whole: Fusion) -> None:
    """Close nothing: the loop is that of another Fusion, which lives as long as this is held."""


def _limits(given: Limits | Mapping[str, Any] | None) -> Limits | None:
    if given is None or isinstance(given, Limits):
        return given
    try:
        return Limits.model_validate(given)
    except ValueError as error:
        raise UsageError(f"budget {given!r}: give positive usd, tokens, calls or seconds") from error


def _merged(pipeline: Limits, given: Limits | None) -> Limits:
    """The user's limits, and the pipeline's where the user sets none."""
    if given is None:
        return pipeline
    return Limits(**{**pipeline.model_dump(exclude_none=True), **given.model_dump(exclude_none=True)})


def _run_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _both(first: Sink, second: Sink | None) -> Sink:
    if second is None:
        return first

    def sink(event: EventBase) -> None:
        first(event)
        second(event)

    return sink


def _nowhere(event: EventBase) -> None:
    return None
