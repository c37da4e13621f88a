"""A plug-in with two kinds of stages, made of the public names of `fusion.stages` alone."""

from typing import Any, ClassVar, Literal

from fusion.stages import Estimate, Item, ItemStage, ModelStage, OutputField, StageContext, StageError


class Debate(ModelStage):
    """Asks a model for both sides, keeps the first draft, and says so. It uses all five services."""

    kind: Literal["debate"] = "debate"
    sides: tuple[str, ...] = ("for", "against")
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("sides", feed=True), OutputField("text"))
    default_prompt: ClassVar[str] = "{{ side }}: {{ request }}"
    prompt_offers: ClassVar[frozenset[str]] = frozenset({"side"})
    estimate: ClassVar[Estimate] = Estimate(
        cost="A call for each side.",
        example="inputs: {topic: A topic.}\nstages: {talk: {kind: debate, role: bulk}}\noutput: talk.text\n",
        calls=lambda stage, items, within: len(stage.sides) * stage.calls_of_an_answer(shaped=False),
        items=lambda stage, items: len(stage.sides),
    )

    async def run(self, ctx: StageContext) -> None:
        values = await ctx.inputs.values()
        for index, side in enumerate(self.sides):
            answer = await self.answer(ctx, self.ask(ctx, {**values, "side": side}, side, index))
            ctx.outputs.settle(Item(index=index, source=side).worked(answer.value, answer.by))
        said = [str(item.value) for item in ctx.outputs.feed("sides").so_far]
        if not any(said):
            raise StageError("neither side has an argument")
        ctx.journal.keep("first", said[0])
        ctx.events.note(f"{len(said)} sides, {ctx.journal.kept('first') or 'nothing'} kept")
        ctx.outputs.give("text", " / ".join(said))


class Reverse(ItemStage):
    """Turns the words of each item round, without a model."""

    kind: Literal["reverse"] = "reverse"
    outputs: ClassVar[tuple[OutputField, ...]] = (OutputField("items", feed=True),)
    default_prompt: ClassVar[str] = ""

    async def work(self, ctx: StageContext, item: Item, needed: list[Item], variables: dict[str, Any]) -> Item:
        return item.worked(str(item.value)[::-1], "reverse")
