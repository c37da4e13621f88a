"""Fusion: the Python door. Runs pipelines from scripts, threads, running event loops and notebooks alike."""

import asyncio
import copy
import functools
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from fusion import graph
from fusion.budget import Budget
from fusion.config import Settings
from fusion.engine import Run
from fusion.errors import BudgetError, PipelineError, RunFailed, UsageError
from fusion.events import EventBase, Sink
from fusion.inputs import check_looked_at, filled, request_of, schema_of, shaped_output
from fusion.library import Library, close_names
from fusion.loop import LoopThread, Work
from fusion.models.base import Model
from fusion.models.gateway import Gateway
from fusion.models.profiles import Profile, choose
from fusion.preview import Given, Preview, preview
from fusion.prompts import Prompts
from fusion.quote import Quote, quoted
from fusion.result import Result
from fusion.roles import RoleModels, resolve, used_roles
from fusion.spec import Pipeline
from fusion.streams import AsyncRunStream, RunStream
from fusion.supposing import Subject
from fusion.terms import Defaults, RoleSpec
from fusion.types import Limits

__all__ = ["Fusion", "PipelineGiven", "RunHandle", "complete"]

RoleGiven = str | Model | RoleSpec
Prompt = str | Sequence[Mapping[str, Any]] | None
PipelineGiven = str | Path | Pipeline
"""A pipeline by name or path, or as an object."""
_DEFAULT_PIPELINE = "plan-execute-review"
_MOST_LOADED = 64


class RunHandle:
    """A run under way."""

    def __init__(self, run: Run, work: Work[Result], fusion: "Fusion") -> None:
        self.run_id = run.run_id
        self._run = run
        self._work = work
        self._fusion = fusion  # which ends its runs when nobody holds it any more

    @property
    def exit_code(self) -> int:
        """How a process should end for this run: 0, 130 if cancelled, 4 for a budget stop, else by the cause."""
        return self._run.exit_code

    @property
    def cause(self) -> BaseException | None:
        """The first root cause of a run that failed."""
        return self._run.cause

    @property
    def budget_stops(self) -> tuple[BudgetError, ...]:
        """The limits that ended the run, or that it was finished without passing."""
        return self._run.budget_stops

    @property
    def over(self) -> bool:
        """True once the run has ended and given everything back."""
        return self._work.done.done()

    def when_over(self, call: Callable[[], object]) -> None:
        """Call this once the run has ended, however it did; at once if it has."""
        self._work.done.add_done_callback(lambda _: call())

    def wait(self, timeout: float | None = None) -> Result:
        """The Result, also of a run that failed. Raises the built-in TimeoutError if it takes longer."""
        if not self.over:
            self._fusion._loop.check_outside("a run cannot be waited for")
        try:
            return self._work.done.result(timeout)
        except asyncio.CancelledError:  # before it had even begun
            return self._run.interrupted()

    def stop(self) -> None:
        """Ask the run to stop, and go on at once: from every thread, and from inside of `on_event` too."""
        self._work.cancel()

    def cancel(self) -> Result:
        """Stop the run, wait until everything is given back, and return what was finished."""
        self.stop()
        return self.wait()

    async def wait_async(self) -> Result:
        """The Result, awaited on the caller's own loop. Cancelling the wait stops the run."""
        done = asyncio.wrap_future(self._work.done)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if done.done() and task is not None and not task.cancelling():  # the run was, before it had even begun
                return self._run.interrupted()
            self._work.cancel()
            await asyncio.wait([done])
            done.exception()
            raise


class _Loaded(NamedTuple):
    """A pipeline that has been checked, and the files that it was made of, each as it was then."""

    pipeline: Pipeline
    prompts: Prompts
    near: Path | None
    nested: dict[str, graph.Nested]
    stamps: dict[Path, int]


class Fusion:
    """Runs pipelines.

    `profile` names a set of models ("local", "openai", …), by default that of the first key that is set. `roles`
    sets single roles: a model's id, a `RoleSpec`, or a `Model` of your own; `model` sets all of them. `budget` is
    what a run may spend: `{"usd": 0.5, "tokens": …, "calls": …, "seconds": …}`; it goes before the pipeline's own,
    and under a dollar limit given here a model of unknown price is refused.

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
        budget: Limits | Mapping[str, Any] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._settings = settings or Settings.from_environment()
        self._profile_given = profile
        self._budget = _limits(budget)
        self._gateway = Gateway(self._settings, models=models)
        self._own = {*(models or {})}
        self._roles = {role: self._spec(given) for role, given in (roles or {}).items()}
        self._model = None if model is None else self._spec(model)
        self._library = Library.standard(user=self._settings.library_dir)
        self._loaded: dict[object, _Loaded] = {}
        self._lock = threading.Lock()
        self._loop = LoopThread()
        self._finalizer: Callable[[], object] = weakref.finalize(self, _shut_down, self._loop, self._gateway)

    # Complete: a prompt in, a Result out.

    def complete(
        self,
        prompt: Prompt = None,
        *,
        pipeline: PipelineGiven = _DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
        schema: type[BaseModel] | None = None,
        budget: Limits | Mapping[str, Any] | None = None,
        on_event: Callable[[EventBase], None] | None = None,
    ) -> Result:
        """Run a pipeline to its end.

        `prompt` is a text or OpenAI-style messages and fills the pipeline's first required input; `inputs` fills
        the others by name. Of messages the last one asks, the conversation before it stands above; a system prompt
        stands above the pipeline's own in every call; pictures and documents (content parts with a data URL) are
        shown wherever the request is printed. An input of `format: image` or `file` takes a Path, bytes or data URL.
        With `schema`, a pydantic class, the answer's data comes back as one in `.data`.
        `on_event` is called with every event, on the private loop's thread.

        Raises RunFailed, with the Result in `.result`, if there is no answer; UsageError kinds before any call.
        """
        handle = self.start(prompt, pipeline=pipeline, inputs=inputs, schema=schema, budget=budget, on_event=on_event)
        try:
            result = handle.wait()
        except KeyboardInterrupt:
            handle.cancel()
            raise
        return _checked_result(handle, result, schema)

    async def acomplete(
        self,
        prompt: Prompt = None,
        *,
        pipeline: PipelineGiven = _DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
        schema: type[BaseModel] | None = None,
        budget: Limits | Mapping[str, Any] | None = None,
        on_event: Callable[[EventBase], None] | None = None,
    ) -> Result:
        """`complete`, awaited. Cancelling it stops the run."""
        handle = self.start(prompt, pipeline=pipeline, inputs=inputs, schema=schema, budget=budget, on_event=on_event)
        return _checked_result(handle, await handle.wait_async(), schema)

    def stream(
        self,
        prompt: Prompt = None,
        *,
        pipeline: PipelineGiven = _DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
        budget: Limits | Mapping[str, Any] | None = None,
        on_event: Callable[[EventBase], None] | None = None,
    ) -> RunStream:
        """Run a pipeline and iterate over the pieces of its answer; `.result` holds the Result at the end."""
        stream = RunStream()
        handle = self.start(
            prompt,
            pipeline=pipeline,
            inputs=inputs,
            budget=budget,
            on_event=_both(stream.sink, on_event),
            stream=True,
        )
        return stream.of(handle, functools.partial(_checked_result, handle, schema=None))

    def astream(
        self,
        prompt: Prompt = None,
        *,
        pipeline: PipelineGiven = _DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
        budget: Limits | Mapping[str, Any] | None = None,
        on_event: Callable[[EventBase], None] | None = None,
    ) -> AsyncRunStream:
        """`stream` for `async for`, on the caller's running loop."""
        stream = AsyncRunStream()
        handle = self.start(
            prompt,
            pipeline=pipeline,
            inputs=inputs,
            budget=budget,
            on_event=_both(stream.sink, on_event),
            stream=True,
        )
        return stream.of(handle, functools.partial(_checked_result, handle, schema=None))

    def start(
        self,
        prompt: Prompt = None,
        *,
        pipeline: PipelineGiven = _DEFAULT_PIPELINE,
        inputs: Mapping[str, Any] | None = None,
        schema: type[BaseModel] | None = None,
        budget: Limits | Mapping[str, Any] | None = None,
        on_event: Callable[[EventBase], None] | None = None,
        stream: bool = False,
        within: Budget | None = None,
    ) -> RunHandle:
        """Begin a run and return at once. With `stream`, the answer's pieces are among the events.

        `within` is a budget of several runs of this Fusion, which all of them together hold to.

        Raises PipelineError, InputError, MissingKeyError or another UsageError before any call is made.
        """
        self._loop.check_outside("a run cannot be started")
        self._loop.check()
        loaded = self._load(pipeline)
        checked = loaded.pipeline
        if schema is not None:
            checked = shaped_output(checked, schema_of(schema))
        checked = checked.model_copy(update={"defaults": checked.defaults.over(self._settings.defaults)})
        request, values = filled(checked, request_of(prompt), inputs or {})
        profile = self.profile
        roles = self._roles_of(loaded, profile)
        check_looked_at(checked, loaded.prompts, roles, request, values)
        limits = _limits(budget) or self._budget
        run = Run(
            _run_id(),
            checked,
            prompts=loaded.prompts,
            roles=roles,
            profile=profile.name,
            inputs=values,
            request=request,
            limits=_merged(checked.budget, limits),
            strict_usd=limits is not None and limits.usd is not None,
            sink=on_event or _nowhere,
            stream=stream,
            near=loaded.near,
            nested=loaded.nested,
            within=within,
        )
        work = self._loop.submit(self._execute(run, list(roles.models)))
        return RunHandle(run, work, self)

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
        loaded = self._load(pipeline)
        request, values = filled(loaded.pipeline, request_of(prompt), inputs or {})
        if stage is not None and stage not in loaded.pipeline.stages:
            raise UsageError(f"no stage {stage!r}{close_names(stage, loaded.pipeline.stages)}")
        profile = self.profile
        roles = self._roles_of(loaded, profile)
        check_looked_at(loaded.pipeline, loaded.prompts, roles, request, values)
        looking = preview(
            loaded.pipeline,
            prompts=loaded.prompts,
            roles=roles,
            profile=profile.name,
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
        loaded = self._load(pipeline)
        checked = loaded.pipeline.model_copy(
            update={"defaults": loaded.pipeline.defaults.over(self._settings.defaults)}
        )
        request, values = filled(checked, request_of(prompt), inputs or {})
        profile = self.profile
        roles = self._roles_of(loaded, profile)
        check_looked_at(checked, loaded.prompts, roles, request, values)
        limits = _limits(budget) or self._budget
        return quoted(
            Subject(
                checked,
                prompts=loaded.prompts,
                roles=roles,
                profile=profile.name,
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
        return self._load(pipeline).pipeline

    def files(self, pipeline: PipelineGiven) -> tuple[Path, ...]:
        """Every file that a pipeline is made of: its own, its templates, those of the pipelines that it runs."""
        return tuple(self._load(pipeline).stamps)

    def using(
        self,
        *,
        profile: str | None = None,
        roles: Mapping[str, RoleGiven] | None = None,
        model: str | Model | None = None,
        defaults: Defaults | None = None,
    ) -> "Fusion":
        """A Fusion with other models, on the loop, slots and sockets of this one, which closes them.

        What is not given here stays as this one has it.
        """
        other = copy.copy(self)
        other._finalizer = functools.partial(_kept_by, self)
        if profile is not None:
            other._profile_given = profile
        if roles is not None:
            other._roles = {role: self._spec(given) for role, given in roles.items()}
        if model is not None:
            other._model = self._spec(model)
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

    async def _execute(self, run: Run, model_ids: Sequence[str]) -> Result:
        warming = asyncio.ensure_future(self._gateway.warm(i for i in model_ids if i not in self._own))
        try:
            return await run.execute()
        except asyncio.CancelledError:
            return run.interrupted()
        finally:
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)

    def _load(self, given: PipelineGiven) -> "_Loaded":
        path = None if isinstance(given, Pipeline) else self._library.pipeline(str(given))
        key: object = id(given) if path is None else path
        with self._lock:
            loaded = self._loaded.pop(key, None)
            if loaded is None or loaded.stamps != _stamps(loaded.stamps):
                loaded = self._checked(given) if path is None else self._read(path)
            if len(self._loaded) >= _MOST_LOADED:
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[key] = loaded
            return loaded

    def _read(self, path: Path) -> "_Loaded":
        pipeline, prompts = graph.load_checked(path, library=self._library)
        nested = graph.nested(pipeline, prompts, near=path.parent)
        return _Loaded(pipeline, prompts, path.parent, nested, _stamps([path, *prompts.files, *_files(nested)]))

    def _checked(self, given: PipelineGiven) -> "_Loaded":
        assert isinstance(given, Pipeline)
        prompts = Prompts(self._library)
        problems = graph.check(given, prompts=prompts)
        if problems:
            raise PipelineError(problems)
        nested = graph.nested(given, prompts)
        return _Loaded(given, prompts, None, nested, _stamps([*prompts.files, *_files(nested)]))

    def _roles_of(self, loaded: "_Loaded", profile: Profile) -> RoleModels:
        given = self._given_roles(loaded)
        with self._lock:
            return resolve(
                loaded.pipeline,
                given=given,
                profile=profile,
                gateway=self._gateway,
                settings=self._settings,
                own=self._own,
                nested=loaded.nested,
            )

    def _given_roles(self, loaded: "_Loaded") -> dict[str, RoleSpec]:
        pipeline = loaded.pipeline
        used = used_roles(pipeline, loaded.nested)
        unknown = sorted(set(self._roles) - {*used, *pipeline.roles, *self._settings.roles, *self.profile.roles})
        if unknown:
            raise UsageError(f"no role {unknown[0]!r} in {pipeline.name!r}; it has: {', '.join(sorted(used))}")
        everywhere = {} if self._model is None else dict.fromkeys(used, self._model)
        return {**everywhere, **self._roles}

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
    prompt: Prompt = None,
    *,
    pipeline: PipelineGiven = _DEFAULT_PIPELINE,
    inputs: Mapping[str, Any] | None = None,
    schema: type[BaseModel] | None = None,
    budget: Limits | Mapping[str, Any] | None = None,
    on_event: Callable[[EventBase], None] | None = None,
) -> Result:
    """`Fusion().complete(…)` on one Fusion that the process keeps."""
    return _default(os.getpid()).complete(
        prompt, pipeline=pipeline, inputs=inputs, schema=schema, budget=budget, on_event=on_event
    )


def _files(nested: Mapping[str, graph.Nested]) -> Iterable[Path]:
    return (file for one in nested.values() for file in one.files)


def _stamps(files: Iterable[Path]) -> dict[Path, int]:
    """When each file was written last; 0 for one that is gone."""
    return {file: file.stat().st_mtime_ns if file.is_file() else 0 for file in files}


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


def _shut_down(loop: LoopThread, gateway: Gateway) -> None:
    if loop.inside:  # the last one who held this Fusion was a run of its own
        threading.Thread(target=loop.close, args=(gateway.close,), name="fusion-close").start()
    else:
        loop.close(gateway.close)


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
