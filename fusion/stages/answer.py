"""Answers: stages that write a text or data, continuation of truncated texts, and verdicts of judges."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from fusion.core.errors import BadResponseError, InputTooLongError
from fusion.core.types import Message, as_text
from fusion.models.structured import values_in
from fusion.stages.base import ModelStage, PromptUse, Shaped, whole
from fusion.stages.context import Answer, Ask, StageContext, Variables
from fusion.stages.text.continuation import Stitches, ending


class AnswerStage(ModelStage, Shaped):
    """A stage whose answer may have a shape: with a `schema` the answer is data that holds to it.

    A text that was cut off at its limit is continued: the model is shown what it has written and asked to go on.
    """

    continuations: int = Field(
        default=3, ge=0, le=20, description="How often a text that was cut off at its limit is continued."
    )
    continue_prompt: str = Field(default="shared/continue", description="The template that asks for a text's rest.")

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
        """How many calls an answer in the stage's own shape takes at most."""
        return self.calls_of_an_answer(shaped=self.output_schema is not None, continued=self.continuations)

    async def write(self, ctx: StageContext, variables: Variables, step: str) -> None:
        """Ask once with the stage's template, and fill `text` and `data` with the answer."""
        answer = await self.answer(
            ctx,
            self.ask(ctx, variables, step)._replace(deltas=None if self.output_schema else ctx.models.stream(step)),
        )
        give_answer(ctx, answer)

    async def answer(self, ctx: StageContext, ask: Ask) -> Answer:
        return await super().answer(ctx, ask if ask.deltas is None else ask._replace(deltas=Stitches(ask.deltas)))

    async def entire(self, ctx: StageContext, ask: Ask) -> Answer:
        stitches = ask.deltas if isinstance(ask.deltas, Stitches) else Stitches(None)
        stitches.begin_again()
        answer = await ctx.models.call(ask)
        stitches.take(answer.text)
        if ask.schema is not None or not self.continuations:
            return whole(answer)
        for number in range(1, self.continuations + 1):
            if answer.finish_reason != "length":
                break
            answer = await self._continued(ctx, ask, answer, stitches.written, number)
            if not stitches.take(answer.text) and answer.finish_reason == "length":
                break
        if answer.finish_reason == "length":
            raise BadResponseError(
                f"{answer.by!r} was cut off at its output limit, and again when it went on; raise `max_tokens` or "
                "`continuations` of the stage, or ask for less",
                model=answer.by,
                text=stitches.written,
            )
        return answer._replace(text=stitches.written)

    async def _continued(self, ctx: StageContext, ask: Ask, answer: Answer, written: str, number: int) -> Answer:
        """What the model says when it is asked to go on behind what it has written."""
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


def own_verdict(answer: Answer, judged: Any) -> Answer:
    """The answer, if its verdict is the judge's own.

    A reply in prose may quote a verdict that stands in what is judged, and what is read out of it is then the verdict
    of the one who is judged. Raises BadResponseError where that may be: the same JSON stands in what is judged, and
    the reply is more than that JSON.
    """
    if _alone(answer.text) or answer.data not in values_in(as_text(judged), dict):
        return answer
    raise BadResponseError(
        f"{answer.by!r} repeats a verdict that stands in what it was to judge, and gives none of its own",
        model=answer.by,
        text=answer.text,
    )


def _alone(text: str) -> bool:
    """True for a reply that is JSON and nothing else."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
