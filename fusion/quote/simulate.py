"""Simulate: a run on simulated models, without a call, on a loop with a virtual clock."""

import asyncio
import json
import selectors
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Any, Final, TypeVar, TypeVarTuple

from fusion.core import budget
from fusion.core.errors import ModelConnectionError
from fusion.core.events import EventBase, StageFinished, StageGrew, StageStarted, span
from fusion.core.result import Result
from fusion.core.types import Deltas, FinishReason, Limits, Reply, Request, ToolCall, Usage, as_text
from fusion.engine.run import Run
from fusion.engine.run_spec import RunSpec
from fusion.models.base import Model, ModelInfo, Price, estimate_input, estimate_request, estimate_tokens, input_bound
from fusion.models.speed import pace_of
from fusion.models.structured import form, shaped
from fusion.models.tokens import InlineBounds
from fusion.models.wrappers.breaker import Breaker
from fusion.models.wrappers.budget import Metered
from fusion.models.wrappers.fallback import Member
from fusion.models.wrappers.journal import Unreachable
from fusion.pipeline.loader import LoadedPipeline
from fusion.quote.hands import Supposed, SupposedSandbox
from fusion.stages.base import Stage
from fusion.stages.simulation import Chance, Spread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_TOKENIZER: Final = Spread(0.8, 1.0, 1.3)
"""Ratio of a model's own token count to one token per four bytes."""
_HASTE: Final = Spread(0.5, 1.0, 2.0)
"""Ratio of a model's latency to the expected one."""
_THINKING: Final = Spread(0.01, 0.08, 0.4)
"""Share of its output limit that a model spends on reasoning by default."""
_SHAPE_MISSED: Final = Spread(0.002, 0.02, 0.12)
"""Share of first answers that miss their schema."""
_CALLS_A_TOOL: Final = 0.6
"""Share of replies that call a tool, where there is one."""
_OF_CALL: Final = 60
"""Tokens of a call of a tool."""
_PIECES: Final = 24  # deltas of a streamed answer
_UNREADABLE: Final = "no JSON "
OUT_OF_REACH: Final = "no model of its chain is left"
"""The error of a call to a model that is taken away."""


@dataclass
class Asking:
    """The largest call of a stage: bound on input tokens, output limit; and the models called."""

    taken: int = 0
    given: int = 0
    asked: set[str] = field(default_factory=set)

    def add(self, other: "Asking") -> None:
        self.taken = max(self.taken, other.taken)
        self.given = max(self.given, other.given)
        self.asked |= other.asked


@dataclass
class Simulated:
    """A simulated run, and the sink of its events. Times are seconds since its start; `items` counts items."""

    result: Result = field(init=False)
    start: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    seconds: float = 0.0
    began: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    asking: dict[str, Asking] = field(default_factory=dict)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.start

    def __call__(self, event: EventBase) -> None:
        match event:
            case StageStarted():
                self.began.setdefault(event.stage, self.now)
            case StageFinished():
                self.ended[event.stage] = self.now
            case StageGrew():
                self.items[event.stage] = max(event.known, self.items.get(event.stage, 0))


async def simulate(spec: RunSpec, chance: Chance, *, out: Collection[str] = ()) -> Simulated:
    """Simulate a run, on a loop of `in_virtual_time`. The worst case has no limits; the models `out` never answer."""
    record = Simulated()
    stages = spec.loaded.stages
    here = asyncio.Semaphore(1)  # embedded models serve one call at a time
    played: dict[str, Member] = {}
    tokens = InlineBounds()

    def play(member: Member) -> Member:
        if member.info.id in out:
            gone = Unreachable(member.info, ModelConnectionError(OUT_OF_REACH, model=member.info.id, sent=False))
            return Member(gone, gone, Breaker())
        if member.info.id not in played:
            slots = here if member.info.local else asyncio.Semaphore(member.concurrency or 10_000)
            model = Metered(_Simulation(member.info, stages, chance, slots, record, spec), tokens=tokens)
            played[member.info.id] = Member(model, model, Breaker())
        return played[member.info.id]

    randomized = replace(
        spec,
        loaded=_randomized(spec.loaded, chance),
        roles=spec.roles.played_by(play),
        limits=Limits() if chance.worst else spec.limits,
        strict_usd=spec.strict_usd and not chance.worst,
        widest=chance.worst,
        toolbox=Supposed(chance),
        sandbox=SupposedSandbox(chance),
    )
    run = Run("quote", randomized, sink=record, stream=False)
    record.result = await run.execute()
    record.seconds = record.now
    return record


def in_virtual_time(work: Callable[[], Any]) -> Any:
    """Run a coroutine function in a thread, on a loop whose clock skips every wait; return its result."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=Leaping) as runner:
                outcome.append(runner.run(work()))
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            outcome.append(error)

    thread = Thread(target=run, name="fusion-quote")
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class _Simulation(Model):
    """Answers with the expected length, at the price and pace of the real model.

    A cancelled call is charged like a real one. An answer in a schema respects its bounds.
    """

    def __init__(
        self,
        info: ModelInfo,
        stages: Mapping[str, Stage],
        chance: Chance,
        slots: asyncio.Semaphore,
        record: Simulated,
        spec: RunSpec,
    ) -> None:
        self.info = info.model_copy(update={"json_schema": False})
        self._real = info
        self._stages = stages
        self._chance = chance
        self._slots = slots
        self._record = record
        self._left: dict[tuple[str, int | None, str], int] = {}
        self._usual = spec.roles.latencies.quantile(info.id)
        self._spec = spec

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        assert request.key is not None
        stage = self._stages[self._spec.loaded.path_of(request.key.stage)]
        taken = round(self._read(request) * self._chance.of_model("tokenizer", self.info.id, _TOKENIZER))
        thought = self._thought(request)
        calls = self._calls(stage, request)
        if calls:
            text, finish, given = "", "tool_calls", min(_OF_CALL * len(calls) + thought, request.max_tokens)
        else:
            text, finish = self._said(stage, request, max(request.max_tokens - thought, 1))
            given = min(estimate_tokens(text) + thought, request.max_tokens)
        self._note(request)
        async with self._slots:
            if (reservation := budget.attempt.get()) is not None:
                reservation.sent = True
            await _speak(text, self._seconds(taken, given), on_delta)
        usage = Usage(input=taken, output=given, source="estimated")
        return Reply(
            text=text,
            finish_reason=finish,
            usage=usage,
            asked=self.info.id,
            served=self.info.id,
            tool_calls=calls,
            cost=None if (price := self._price(stage)) is None else price.of(usage),
        )

    def _calls(self, stage: Stage, request: Request) -> tuple[ToolCall, ...]:
        """Return the calls of tools that a reply asks for, if it asks for any."""
        if not request.tools or request.tool_choice != "auto" or not self._chance.happens(_CALLS_A_TOOL):
            return ()
        assert request.key is not None
        tool = request.tools[self._chance.any_of(0, len(request.tools) - 1)]
        if tool.parameters.get("properties"):
            said = self._chance.data(tool.parameters, stage.estimate, _OF_CALL)
        else:
            said = {"question": self._chance.text(_OF_CALL // 2)}
        return (ToolCall(id=f"{request.key.step}-call", name=tool.name, arguments=json.dumps(said)),)

    def _price(self, stage: Stage) -> Price | None:
        """Return the price of a call, that of batches where it goes in one."""
        here = span.get()
        role = "" if here is None else here.role
        chain = self._spec.roles.all[role].models if role in self._spec.roles.all else ()
        if not chain or chain[0].id != self.info.id:
            return self.info.price
        return self._spec.batch_price(stage, role) or self.info.price

    def _said(self, stage: Stage, request: Request, limit: int) -> tuple[str, FinishReason]:
        """Return the answer, cut off at its limit; in the worst case every answer needs a repair."""
        assert request.key is not None
        chance, schema = self._chance, request.json_schema
        step = request.key.step.rpartition(".")[2]
        if schema is None:
            said = as_text(stage.estimate.reply(stage, step, None, self._length(stage, request, limit), chance))
            return _within(said, limit, long=chance.worst and _may_go_on(stage, request))
        again = request.messages[-2:-1] and request.messages[-2].role == "assistant"
        missed = chance.of_model("shape", self.info.id, _SHAPE_MISSED)
        if not again and chance.happens(missed):
            tokens = chance.length(self.info.id, stage.estimate.lengths, limit)
            return _UNREADABLE + chance.text(min(tokens, limit) - len(_UNREADABLE) // 4), "stop"
        return _within(json.dumps(stage.estimate.reply(stage, step, schema, limit, chance)), limit)

    def _length(self, stage: Stage, request: Request, limit: int) -> int:
        """The tokens of a text that are not written yet: of a continued one, the rest."""
        assert request.key is not None
        step, number = _continued(request)
        key = request.key.stage, request.key.item, step
        if not number or key not in self._left:
            self._left[key] = self._chance.length(self.info.id, stage.estimate.lengths, limit)
        left = self._left[key]
        self._left[key] = max(left - limit, 1)
        return limit if self._chance.worst else left

    def _read(self, request: Request) -> int:
        """The tokens of the messages, without a schema that the real model takes as a parameter."""
        tokens = estimate_request(request)
        schema = request.json_schema
        if schema is None or (self._spec.answer is not None and schema is self._spec.answer.json_schema):
            return tokens  # a caller's schema counts, in words or as a parameter
        if form(schema, self._real)[1] == "object":
            return tokens
        return tokens - estimate_input(shaped((), schema, "object"))

    def _thought(self, request: Request) -> int:
        """The reasoning tokens before the answer."""
        effort = request.reasoning_effort or self._real.effort
        if effort in (None, "none", "disable") and not request.thinking_budget:
            return 0
        share = self._chance.among(_THINKING)
        most = request.thinking_budget or request.max_tokens
        return min(round(min(share, 1.0) * most), request.max_tokens - 1)

    def _seconds(self, taken: int, given: int) -> float:
        expected = self._usual or pace_of(self._real).seconds(taken, given)
        return expected * self._chance.of_model("haste", self.info.id, _HASTE)

    def _note(self, request: Request) -> None:
        assert request.key is not None
        asking = self._record.asking.setdefault(request.key.stage, Asking())
        asking.add(Asking(input_bound(request), request.max_tokens, {self.info.id}))


def _within(text: str, limit: int, *, long: bool = False) -> tuple[str, FinishReason]:
    """Cut a text to these tokens."""
    size = 4 * limit
    cut = text.encode()[:size].decode(errors="ignore")
    return cut, "length" if long or len(cut) < len(text) else "stop"


def _may_go_on(stage: Stage, request: Request) -> bool:
    """True if the stage continues a text that was cut off."""
    return _continued(request)[1] < int(getattr(stage, "continuations", 0))


def _continued(request: Request) -> tuple[str, int]:
    """Return the step of the call and the number of its continuation, 0 for the first call."""
    assert request.key is not None
    step, _, number = request.key.step.partition("-continued-")
    return step, int(number or 0)


async def _speak(text: str, seconds: float, on_delta: Deltas | None) -> None:
    """Wait for the latency of the answer, streaming it in deltas."""
    if on_delta is None:
        await asyncio.sleep(seconds)
        return
    size = -(-len(text) // _PIECES)
    for at in range(0, len(text), size):
        await asyncio.sleep(seconds / _PIECES)
        on_delta.add(text[at : at + size])


# The pipeline, with its decisions left to chance.


def _randomized(loaded: LoadedPipeline, chance: Chance) -> LoadedPipeline:
    """Leave conditions on answers to chance, in nested pipelines too; drop limits in the worst case."""
    pipeline, stages = loaded.pipeline, {}
    for name, stage in pipeline.stages.items():
        stages[name] = _randomized_stage(stage, chance)
        if stage.when is not None and any(
            path[0] in pipeline.stages for path in loaded.prompts.expression(stage.when).paths
        ):
            stages[name] = stages[name].model_copy(update={"when": None if chance.happens(0.5) else "false"})
    free = {"budget": Limits(), "on_budget": "fail"} if chance.worst else {}
    nested = {path: _randomized(one, chance) for path, one in loaded.nested.items()}
    return replace(loaded, pipeline=pipeline.model_copy(update={**free, "stages": stages}), nested=nested)


def _randomized_stage(stage: Stage, chance: Chance) -> Stage:
    changes: dict[str, Any] = {"timeout": None, "budget": None} if chance.worst else {}
    if stage.on_error in ("fail", None):  # one stage that fails on simulated answers does not stop the others
        changes["on_error"] = "skip"
    if stage.default is None:
        changes["default"] = ""
    inner = {name: _randomized_stage(one, chance) for name, one in stage.inner().items()}
    if inner:
        changes[stage.inner_key] = {**getattr(stage, stage.inner_key), **inner}
    supposed: Stage = stage.estimate.supposed(stage, chance)
    return supposed.model_copy(update=changes)


# Virtual time.


class Leaping(asyncio.SelectorEventLoop):
    """Event loop with a virtual clock: it stops while work is ready and jumps to the next timer."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self.leap))

    def time(self) -> float:
        return self._now

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run the work at once: the clock must not jump while a thread is at work."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - raised again where the work is awaited
            done.set_exception(error)
        return done

    def leap(self, seconds: float) -> None:
        self._now += seconds


class _Selector(selectors.DefaultSelector):
    def __init__(self, leap: Callable[[float], None]) -> None:
        super().__init__()
        self._leap = leap

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready and timeout > 0:
            self._leap(timeout)
        return ready
