"""Tools of a stage: each call is journaled before its result is used, and none that writes is made twice."""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fusion.core.errors import StageError, UsageError
from fusion.core.events import ToolFinished, ToolStarted
from fusion.core.types import Effect, Failure, GateQuestion, ToolResult, ToolSpec, ToolTerms
from fusion.engine.context.material_search import MaterialSearch, MaterialSections
from fusion.engine.context.pipeline_tool import PipelineTool
from fusion.models.redaction import Redactor
from fusion.pipeline.inputs.values import plain
from fusion.stages.base import MATERIAL_SEARCH, MATERIAL_SECTIONS, tool_pipeline
from fusion.stages.context import StageTools
from fusion.store.base import OF_TOOL
from fusion.tools import arguments as of_arguments
from fusion.tools.base import Tool
from fusion.tools.calling import Outcome, called, failed, shortened

if TYPE_CHECKING:
    from fusion.engine.context.context import RunContext

_TERMS: Final = ToolTerms()
_SHOWN: Final = 2_000
"""Most characters of the arguments that a person is shown."""
_INTERRUPTED: Final = "was being called when the run was interrupted, and the call may have taken effect"
_CHOICE: Final = (
    "Approve it to call the tool again. Reject it if the call took effect: it is then not made again, and the reason "
    "that you give is its result."
)


class _Known(NamedTuple):
    """A tool as the models of the run see it, the name that the pipeline writes, and its effect."""

    spec: ToolSpec
    name: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class _Act:
    """A call of a tool: its place in the run, its terms and its arguments."""

    known: _Known
    step: str
    item: int | None
    terms: ToolTerms
    given: dict[str, Any]

    def effect_of(self, tool: Tool | _Known) -> Effect:
        """Return the effect of the call."""
        return self.terms.effect or tool.effect

    @property
    def name(self) -> str:
        """The name of the call in the journal: the same in every process."""
        said = json.dumps([self.known.spec.name, self.given], sort_keys=True, ensure_ascii=False)
        return f"{OF_TOOL}{self.step} {hashlib.sha256(said.encode(errors='replace')).hexdigest()[:16]}"


class RunTools(StageTools):
    """Tools of the run's toolbox, with a journal of their calls.

    A journal holds for each call an intent, written before the tool is called, and its result, written before it is
    used. A resumed run is answered from it, without the tool.
    """

    def __init__(self, ctx: "RunContext") -> None:
        self._ctx = ctx
        self._journal = ctx.run.recorder.journal
        self._toolbox = ctx.run.spec.toolbox
        self._known: dict[str, _Known] = {}
        self._names: dict[str, list[_Known]] = {}
        """The tools by the names that the pipeline writes."""
        self._looking = asyncio.Lock()
        self._redactor = Redactor(self._toolbox.secrets)

    async def specs(self, names: Sequence[str]) -> tuple[ToolSpec, ...]:
        known = [one for name in names for one in await self._of_name(name)]
        for one in known:
            other = self._known.setdefault(one.spec.name, one)
            if other.name != one.name:
                raise StageError(
                    f"two tools have the name {one.spec.name!r}: that of {other.name!r} and that of {one.name!r}"
                )
        return tuple(one.spec for one in known)

    def effect(self, name: str) -> Effect:
        return self._known[name].effect

    async def call(
        self,
        name: str,
        arguments: str | Mapping[str, Any],
        *,
        step: str,
        item: int | None = None,
        terms: ToolTerms | None = None,
    ) -> ToolResult:
        known = await self._one(name)
        if not isinstance(arguments, str):
            arguments = {key: plain(value) for key, value in arguments.items()}
        given, faults = await of_arguments.read(arguments, known.spec)
        act = _Act(known, step, item, terms or _TERMS, given)
        shown = shortened(given if given else arguments)
        self._emit(act, ToolStarted, arguments=shown)
        if faults:
            result = failed(f"the arguments do not fit the tool: {'; '.join(faults)}")
            self._finished(act, Outcome(result, len(result.text)), 0.0, shown)
            return result
        begun = time.monotonic()
        try:
            return await self._answered(act, shown)
        except BaseException:
            self._emit(act, ToolFinished, status="cancelled", seconds=time.monotonic() - begun, arguments=shown)
            raise

    # The tools.

    async def _one(self, name: str) -> _Known:
        if name in self._known:
            return self._known[name]
        found = await self._of_name(name)
        if len(found) != 1:
            raise StageError(f"{name!r} stands for {len(found)} tools; name one of them")
        return found[0]

    async def _of_name(self, name: str) -> list[_Known]:
        """Return the tools of a name. Those that a run has seen stay as they were when it is resumed."""
        if name in self._names:
            return self._names[name]
        async with self._looking:
            if name not in self._names:
                self._names[name] = await self._seen(name)
            return self._names[name]

    async def _seen(self, name: str) -> list[_Known]:
        place = f"{OF_TOOL}specs {name} {self._ctx.run.run_id}"
        kept = self._ctx.journal.kept(place)
        if kept is not None:
            return [_Known(ToolSpec.model_validate(spec), name, effect) for spec, effect in kept]
        found = [_Known(await of_arguments.shown(tool.spec), name, tool.effect) for tool in await self._found(name)]
        self._ctx.journal.keep(place, [[one.spec.model_dump(), one.effect] for one in found])
        return found

    async def _found(self, name: str) -> tuple[Tool, ...]:
        if name == MATERIAL_SEARCH:
            return (MaterialSearch(self._ctx.run.material),)
        if name == MATERIAL_SECTIONS:
            return (MaterialSections(self._ctx.run.material),)
        if (use := tool_pipeline(name)) is not None:
            return (PipelineTool(self._ctx, use),)
        try:
            return await self._toolbox.find(name)
        except UsageError as error:
            raise StageError(str(error)) from error

    async def _tool(self, known: _Known) -> Tool:
        """Return a tool to be called. Raises StageError if it is there no longer."""
        for tool in await self._found(known.name):
            if tool.spec.name == known.spec.name:
                return tool
        raise StageError(f"{known.name!r} has no tool {known.spec.name!r} any more")

    # Calls.

    async def _answered(self, act: _Act, shown: str) -> ToolResult:
        """Return the result of a call, from the journal if it is there."""
        number = 1
        while True:
            kept = self._kept(act, number)
            if kept is not None and not (kept["failed"] and self._may_fail_again(act, number)):
                result = ToolResult(kept["text"], kept["data"], kept["failed"])
                self._finished(act, Outcome(result, kept["size"]), kept["seconds"], shown, reused=True)
                return result
            if kept is None and not self._is_begun(act, number):
                return await self._called(act, number, shown)
            if kept is None or kept["late"]:
                known = await self._unsure(act, number)
                if known is not None:
                    outcome = Outcome(known, len(known.text))
                    await self._keep(act, number if kept is None else number + 1, outcome, 0.0)
                    self._finished(act, outcome, 0.0, shown)
                    return known
            number += 1

    def _kept(self, act: _Act, number: int) -> Any:
        return self._ctx.journal.kept(f"{act.name} {number}", item=act.item)

    def _may_fail_again(self, act: _Act, number: int) -> bool:
        """Return True if a failure in the journal is not final: the call is made again."""
        item, name = self._ctx.placed(act.item, f"{act.name} {number}")
        return act.terms.retries_failed or self._journal.works_again(self._ctx.place, item, name)

    def _is_begun(self, act: _Act, number: int) -> bool:
        return self._ctx.journal.kept(f"{act.name} {number} begun", item=act.item) is not None

    async def _called(self, act: _Act, number: int, shown: str) -> ToolResult:
        """Call a tool, between its intent and its result in the journal."""
        tool = await self._tool(act.known)
        self._ctx.journal.keep(f"{act.name} {number} begun", {"arguments": shown}, item=act.item)
        if act.effect_of(tool) == "write":
            await self._written(act)
        begun = time.monotonic()
        outcome = await called(
            tool.of_call(act.item, act.step) if isinstance(tool, PipelineTool) else tool,
            act.given,
            timeout=act.terms.timeout,
            most=act.terms.max_result,
            mask=self._redactor.mask().text,
        )
        seconds = time.monotonic() - begun
        await self._keep(act, number, outcome, seconds)
        self._finished(act, outcome, seconds, shown)
        return outcome.result

    async def _keep(self, act: _Act, number: int, outcome: Outcome, seconds: float) -> None:
        """Write a result to the journal, and wait until it is on disk."""
        kept = {**outcome.result._asdict(), "late": outcome.late, "size": outcome.size, "seconds": round(seconds, 3)}
        self._ctx.journal.keep(f"{act.name} {number}", kept, item=act.item)
        await self._journal.written()

    async def _written(self, act: _Act) -> None:
        """Wait until the intent of a call is on disk. Raises StageError if the store has failed."""
        await self._journal.written()
        if self._journal.is_out:
            raise StageError(
                f"tool {act.known.spec.name!r} is not called: the store has failed, so that a resumed run could not "
                "know of it"
            )

    async def _unsure(self, act: _Act, number: int) -> ToolResult | None:
        """Return the result of a call that may have taken effect, and is not repeated; None for one to repeat.

        Raises StageError if it must fail, and Waits until a person has answered.
        """
        if act.terms.on_unsure == "repeat" or act.effect_of(await self._tool(act.known)) == "read":
            return None
        name, given = act.known.spec.name, shortened(act.given, _SHOWN)
        if act.terms.on_unsure == "fail":
            raise StageError(f"tool {name!r} {_INTERRUPTED}: {given}")
        question = GateQuestion(
            text=f"The tool {name!r} {_INTERRUPTED}:\n\n{given}\n\n{_CHOICE}",
            title=f"Call {name} again?",
            name=f"{act.step} {number}",
        )
        answer = await self._ctx.gates.ask(question, item=act.item)
        if answer.answer != "rejected":
            return None
        said = f" {answer.by} says: {answer.text}" if answer.text else ""
        return ToolResult(f"The call was made before, and is not repeated.{said}")

    # Events.

    def _finished(self, act: _Act, outcome: Outcome, seconds: float, shown: str, *, reused: bool = False) -> None:
        result = outcome.result
        failure = Failure(reason="ToolFailed", message=shortened(result.text)) if result.failed else None
        self._emit(
            act,
            ToolFinished,
            status="failed" if result.failed else "ok",
            seconds=seconds,
            size=outcome.size,
            failure=failure,
            reused=reused,
            arguments=shown,
        )

    def _emit(self, act: _Act, kind: type[ToolStarted] | type[ToolFinished], **more: Any) -> None:
        ctx = self._ctx
        item, step = ctx.placed(act.item, act.step)
        place = {"run_id": ctx.run.run_id, "stage": ctx.place, "item": item, "step": step}
        ctx.emit(kind(**place, tool=act.known.spec.name, effect=act.effect_of(act.known), **more))
