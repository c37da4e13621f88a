"""One run as it may go, on models that stand in for those it would ask: no call is made, and no time passes."""

import asyncio
import json
import selectors
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Any, Final, TypeVar

from fusion.core import budget
from fusion.core.events import EventBase, StageFinished, StageGrew, StageStarted
from fusion.core.result import Result
from fusion.core.types import Deltas, FinishReason, Limits, Reply, Request, Usage, as_text
from fusion.engine.run import Run
from fusion.engine.run_spec import RunSpec
from fusion.models.base import Model, ModelInfo, estimate_input, estimate_tokens, input_bound
from fusion.models.speed import Latencies, pace_of
from fusion.models.structured import form, shaped
from fusion.models.wrappers.budget import Metered
from fusion.models.wrappers.fallback import Breaker, Member
from fusion.pipeline.loader import LoadedPipeline
from fusion.stages.base import Stage
from fusion.stages.simulation import Chance, Spread

T = TypeVar("T")

_TOKENIZER: Final = Spread(0.8, 1.0, 1.3)
"""Tokens of a text by a model's own count, over four bytes each."""
_HASTE: Final = Spread(0.5, 1.0, 2.0)
"""How long a model takes, over what is expected of it."""
_THINKING: Final = Spread(0.01, 0.08, 0.4)
"""How much of its output limit a model thinks that does so unasked; none where it is told not to."""
_SHAPE_MISSED: Final = Spread(0.002, 0.02, 0.12)
"""How often an answer does not hold to its shape at first."""
_PIECES: Final = 24  # of an answer that is followed while it is written
_UNREADABLE: Final = "no JSON "


@dataclass
class Asking:
    """The most that a call of one stage was seen to take: tokens of input, at most, and of output; who was asked."""

    taken: int = 0
    given: int = 0
    asked: set[str] = field(default_factory=set)


@dataclass
class Supposed:
    """How a run went that nobody made. Times are seconds of the run; `items` is how many each stage was given."""

    result: Result
    seconds: float = 0.0
    began: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    asking: dict[str, Asking] = field(default_factory=dict)


async def suppose(spec: RunSpec, chance: Chance) -> Supposed:
    """Run the pipeline by these chances; on a loop of `in_no_time`. In the worst case there are no limits."""
    record = _Record()
    stages = spec.loaded.stages
    here = asyncio.Semaphore(1)  # the embedded models compute one call at a time
    played: dict[str, Member] = {}

    def play(member: Member) -> Member:
        if member.info.id not in played:
            slots = here if member.info.local else asyncio.Semaphore(member.concurrency or 10_000)
            model = Metered(_StandIn(member.info, stages, chance, slots, record, spec.roles.latencies))
            played[member.info.id] = Member(model, model, Breaker())
        return played[member.info.id]

    supposed = replace(
        spec,
        loaded=_freely(spec.loaded, chance),
        roles=spec.roles.played_by(play),
        limits=Limits() if chance.worst else spec.limits,
        strict_usd=spec.strict_usd and not chance.worst,
    )
    run = Run("quote", supposed, sink=record, stream=False)
    begun = asyncio.get_running_loop().time()
    result = await run.execute()
    took = asyncio.get_running_loop().time() - begun
    return Supposed(result, took, record.began, record.ended, record.items, record.asking)


def in_no_time(work: Callable[[], Any]) -> Any:
    """The result of a coroutine function, on a loop of its own in a thread, whose clock leaps over every wait."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=Leaping) as runner:
                outcome.append(runner.run(work()))
        except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
            outcome.append(error)

    thread = Thread(target=run, name="fusion-quote")
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class _Record:
    """A sink that keeps when stages began and ended, and how many items each was given."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.items: dict[str, int] = {}
        self.asking: dict[str, Asking] = {}

    def __call__(self, event: EventBase) -> None:
        match event:
            case StageStarted():
                self.began.setdefault(event.stage, asyncio.get_running_loop().time())
            case StageFinished():
                self.ended[event.stage] = asyncio.get_running_loop().time()
            case StageGrew():
                self.items[event.stage] = max(event.known, self.items.get(event.stage, 0))


class _StandIn(Model):
    """Says something of the size that is to be expected, at the price and pace of the model that it stands in for.

    A cancelled call is charged as a real one is. What is read of a schema is the whole of it, with its bounds.
    """

    def __init__(
        self,
        info: ModelInfo,
        stages: Mapping[str, Stage],
        chance: Chance,
        slots: asyncio.Semaphore,
        record: _Record,
        latencies: Latencies,
    ) -> None:
        self.info = info.model_copy(update={"json_schema": False})
        self._real = info
        self._stages = stages
        self._chance = chance
        self._slots = slots
        self._record = record
        self._left: dict[tuple[str, int | None, str], int] = {}
        self._usual = latencies.quantile(info.id)

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        assert request.key is not None
        stage = self._stages[request.key.stage]
        taken = round(self._read(request) * self._chance.of_model("tokenizer", self.info.id, _TOKENIZER))
        thought = self._thought(request)
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
            cost=None if self.info.price is None else self.info.price.of(usage),
        )

    def _said(self, stage: Stage, request: Request, limit: int) -> tuple[str, FinishReason]:
        """What it says, cut off at its limit; in the worst case everything has to be asked for again."""
        assert request.key is not None
        chance, schema, step = self._chance, request.json_schema, request.key.step
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
        """Tokens of a text; of one that is continued, those that are still missing."""
        assert request.key is not None
        step, number = _continued(request)
        key = request.key.stage, request.key.item, step
        if not number or key not in self._left:
            self._left[key] = self._chance.length(self.info.id, stage.estimate.lengths, limit)
        left = self._left[key]
        self._left[key] = max(left - limit, 1)
        return limit if self._chance.worst else left

    def _read(self, request: Request) -> int:
        """Tokens of the messages, without the words of a schema that the model itself would be given as one."""
        tokens = estimate_input(request.messages)
        schema = request.json_schema
        if schema is None or form(schema, self._real)[1] == "object":
            return tokens
        return tokens - estimate_input(shaped((), schema, "object"))

    def _thought(self, request: Request) -> int:
        """Tokens that the model thinks before it answers."""
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
        asking.taken = max(asking.taken, input_bound(request))
        asking.given = max(asking.given, request.max_tokens)
        asking.asked.add(self.info.id)


def _within(text: str, limit: int, *, long: bool = False) -> tuple[str, FinishReason]:
    """As much of a text as so many tokens hold."""
    size = 4 * limit
    cut = text.encode()[:size].decode(errors="ignore")
    return cut, "length" if long or len(cut) < len(text) else "stop"


def _may_go_on(stage: Stage, request: Request) -> bool:
    """True where a text of the stage that is cut off would be continued."""
    return _continued(request)[1] < int(getattr(stage, "continuations", 0))


def _continued(request: Request) -> tuple[str, int]:
    """The step that is continued, and how often it has been by now."""
    assert request.key is not None
    step, _, number = request.key.step.partition("-continued-")
    return step, int(number or 0)


async def _speak(text: str, seconds: float, on_delta: Deltas | None) -> None:
    """Let the answer take its time, handing it on in pieces."""
    if on_delta is None:
        await asyncio.sleep(seconds)
        return
    size = -(-len(text) // _PIECES)
    for at in range(0, len(text), size):
        await asyncio.sleep(seconds / _PIECES)
        on_delta.add(text[at : at + size])


# The pipeline as it is supposed to be.


def _freely(loaded: LoadedPipeline, chance: Chance) -> LoadedPipeline:
    """Leave conditions on answers to chance, in nested pipelines too; drop limits in the worst case."""
    pipeline, stages = loaded.pipeline, {}
    for name, stage in pipeline.stages.items():
        stages[name] = _stage_freely(stage, chance)
        if stage.when is not None and any(
            path[0] in pipeline.stages for path in loaded.prompts.expression(stage.when).paths
        ):
            stages[name] = stages[name].model_copy(update={"when": None if chance.happens(0.5) else "false"})
    free = {"budget": Limits(), "on_budget": "fail"} if chance.worst else {}
    nested = {path: _freely(one, chance) for path, one in loaded.nested.items()}
    return replace(loaded, pipeline=pipeline.model_copy(update={**free, "stages": stages}), nested=nested)


def _stage_freely(stage: Stage, chance: Chance) -> Stage:
    changes: dict[str, Any] = {"timeout": None, "budget": None} if chance.worst else {}
    if stage.on_error == "fail":  # a stage that cannot work on stand-ins does not keep those behind it from theirs
        changes["on_error"] = "skip"
    if stage.default is None:
        changes["default"] = ""
    inner = {name: _stage_freely(one, chance) for name, one in stage.inner().items()}
    if inner:
        changes[stage.inner_key] = {**getattr(stage, stage.inner_key), **inner}
    supposed: Stage = stage.estimate.supposed(stage, chance)
    return supposed.model_copy(update=changes)


# Time.


class Leaping(asyncio.SelectorEventLoop):
    """A loop whose clock stands still while anything can be done, and leaps to the next thing that is due."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self.leap))

    def time(self) -> float:
        return self._now

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
