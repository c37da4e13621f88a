"""Answers: stages that write a text or data, continuation of truncated texts, and verdicts of judges."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from pydantic import Field, model_validator

from fusion.core.bounded import clock
from fusion.core.errors import BadResponseError, InputTooLongError, StageError
from fusion.core.params import AnswerOptions
from fusion.core.types import Message, as_text
from fusion.models.structured import values_in
from fusion.stages.base import NUMBER, ModelStage, PromptUse, Shaped, whole
from fusion.stages.context import Answer, Ask, Conclusion, StageContext, Variables
from fusion.stages.text.checks import Checks
from fusion.stages.text.continuation import Stitches, ending
from fusion.stages.text.extract import Extracted, Extractor

_ALL_OPTIONS: Final = frozenset(AnswerOptions.model_fields)
_NUMERIC: Final = Extractor(read="number")


class AnswerStage(ModelStage, Shaped):
    """A stage that writes a text, or data that matches its `schema`.

    A text that was truncated at its limit is continued: the model sees its own text and is asked to go on.
    """

    continuations: int = Field(default=3, ge=0, le=20, description="Most continuations of a truncated text.")
    continue_prompt: str = Field(default="shared/continue", description="The template of a continuation.")

    @model_validator(mode="after")
    def _only_text_is_continued(self) -> "AnswerStage":
        given = {"continuations", "continue_prompt"} & self.model_fields_set
        if given and self.output_schema is not None:
            raise ValueError(
                f"data of a `schema` is not continued, so this has no effect: {', '.join(sorted(given))}"
            )
        if "continue_prompt" in given and not self.continuations:
            raise ValueError("`continue_prompt` has no effect with `continuations: 0`")
        return self

    def prompts(self) -> Iterator[PromptUse]:
        yield from super().prompts()
        if self.output_schema is None and self.continuations:
            yield PromptUse("continue_prompt", self.continue_prompt, frozenset({"end"}))

    def calls_of_one(self) -> int:
        """Return the most calls for one answer."""
        return self.calls_of_an_answer(shaped=self.output_schema is not None, continued=self.continuations)

    @property
    def obeys(self) -> frozenset[str]:
        return frozenset() if self.output_fields[0].feed else _ALL_OPTIONS

    async def write(self, ctx: StageContext, variables: Variables, step: str) -> None:
        """Call the model with the stage's template, and fill `text` and `data` with the answer.

        Options of the run for its answer are obeyed.
        """
        ask = self.ask(ctx, variables, step)
        if ctx.answer is not None:
            ask = await _under_options(ask, ctx.answer)
        deltas = None if ask.schema is not None else ctx.models.stream(step)
        give_answer(ctx, await self.answer(ctx, ask if deltas is None else ask._replace(deltas=deltas)))

    async def answer(self, ctx: StageContext, ask: Ask) -> Answer:
        return await super().answer(ctx, ask if ask.deltas is None else ask._replace(deltas=Stitches(ask.deltas)))

    async def entire(self, ctx: StageContext, ask: Ask) -> Answer:
        stitches = ask.deltas if isinstance(ask.deltas, Stitches) else Stitches(None)
        stitches.begin_again()
        answer = await ctx.models.call(ask)
        stitches.take(answer.text)
        if answer.tool_calls:
            return answer
        limited = ask.options is not None and ask.options.max_tokens is not None
        if ask.schema is not None or not self.continuations:
            return answer if limited else whole(answer)
        for number in range(1, self._most_continuations(ctx, ask) + 1):
            if answer.finish_reason != "length":
                break
            answer = await self._continued(ctx, ask, answer, stitches.written, number)
            if not stitches.take(answer.text) and answer.finish_reason == "length":
                break
            if answer.tool_calls:
                break
        if answer.finish_reason == "length" and not limited:
            again = ", and again when it went on" if answer.text != stitches.written else ""
            raise BadResponseError(
                f"{answer.by!r} was cut off at its output limit{again}; raise `max_tokens` or `continuations` of the "
                "stage, or ask for less",
                model=answer.by,
                text=stitches.written,
            )
        return answer if answer.text == stitches.written else answer._replace(text=stitches.written)

    def _most_continuations(self, ctx: StageContext, ask: Ask) -> int:
        """Return the most continuations: the stage's own, as far as the limits of an answer allow."""
        room = ctx.models.room(ask.role, ask.max_tokens)
        own = None if ask.options is None else ask.options.max_tokens
        most = min([limit for limit in (room.answer, own) if limit is not None], default=None)
        return self.continuations if most is None else min(self.continuations, most // min(room.output, most) - 1)

    async def _continued(self, ctx: StageContext, ask: Ask, answer: Answer, written: str, number: int) -> Answer:
        """Ask the model to go on after its own text."""
        ctx.events.note(f"{ask.step}: cut off at its output limit; asking for the rest", item=ask.item)
        words = ctx.inputs.render(self.continue_prompt, {**await ctx.inputs.values(), "end": ending(written)})
        messages = (*ask.messages, Message(role="assistant", content=written), *words)
        try:
            return await ctx.models.call(ask._replace(messages=messages, step=f"{ask.step}-continued-{number}"))
        except InputTooLongError as error:
            raise BadResponseError(
                f"{answer.by!r} was cut off at its output limit and has no room in its context to go on; raise "
                "`max_tokens` of the stage, or give it less to read",
                model=answer.by,
                text=written,
            ) from error


def give_answer(ctx: StageContext, answer: Answer) -> None:
    """Fill the fields `text` and `data` with an answer."""
    ctx.outputs.give("text", as_text(answer.value))
    ctx.outputs.give("data", answer.data)
    ctx.outputs.conclude(Conclusion(answer.finish_reason, answer.tool_calls, answer.by))


async def _under_options(ask: Ask, options: AnswerOptions) -> Ask:
    """Return the call for an answer under the options of its run."""
    if options.turns:
        said, turns = ask.messages, options.turns
        messages = await clock.run(lambda: (*said, *turns), size=sum([message.size for message in turns]))
        ask = ask._replace(messages=messages)
    return ask._replace(
        options=options,
        tools=options.tools,
        tool_choice=options.tool_choice,
        schema=ask.schema if options.json_schema is None else options.json_schema,
    )


async def failed_checks(
    ctx: StageContext, checks: Checks | None, value: Any, variables: Variables, key: str
) -> list[str]:
    """Return the failed conditions of the checks under `key` on a value."""
    if checks is None:
        return []
    work = partial(
        checks.failures,
        value,
        schema=ctx.inputs.schema(f"{key}.schema"),
        evaluate=lambda source: ctx.inputs.evaluate(
            source, {**number_of(source, value), **variables, "value": value}
        ),
    )
    try:
        return await clock.run(work, size=clock.size_of(value))
    except clock.TimeUpError as error:
        return [f"the checks cannot be made: {error}"]


def number_of(expression: str, value: Any) -> dict[str, Any]:
    """Return the number that a value gives, as a variable, if an expression may read it."""
    if NUMBER not in expression:
        return {}
    found = _NUMERIC.extract(value)
    return {NUMBER: None if found is None else found.value}


async def extracted(
    ctx: StageContext, extractor: Extractor, answer: Any, item: int | None = None
) -> Extracted | None:
    """Return the answer that an extractor finds; None, with a note, if the search takes too long."""
    try:
        return await clock.run(lambda: extractor.extract(answer), size=clock.size_of(answer))
    except StageError as error:
        ctx.events.note(f"no answer is read out of it: {error}", item=item)
        return None


def own_verdict(answer: Answer, judged: Any) -> Answer:
    """Return the answer if its verdict is the judge's own.

    A reply in prose may quote a verdict out of the judged text, which would then count as the judge's. Raises
    BadResponseError if that is possible: the judged text holds the same JSON, and the reply is more than this JSON.
    """
    if _alone(answer.text) or answer.data not in values_in(as_text(judged), dict):
        return answer
    raise BadResponseError(
        f"{answer.by!r} repeats a verdict out of the text that it judges, and gives none of its own",
        model=answer.by,
        text=answer.text,
    )


def _alone(text: str) -> bool:
    """Return True for a reply that is JSON and nothing else."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
