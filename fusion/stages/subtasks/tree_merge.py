"""Tree merge: merges more parts than fit into one call, level by level, until the rest fits."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fusion.core.errors import StageError
from fusion.core.types import Item
from fusion.models.base import estimate_input
from fusion.stages.base import ModelStage
from fusion.stages.context import Ask, StageContext, Variables
from fusion.stages.items import gathered

_MOST_LEVELS = 12
_READ_AT_ONCE = 4  # the output of a level is at most this fraction of the input of the next
_LEAST = 64  # tokens of output that a call of a level needs


def groups(sizes: Sequence[int], room: int) -> list[range]:
    """Return the fewest groups of neighbours that fit into `room`, as even as possible.

    A part that is larger than `room` is a group by itself.

    >>> groups([2, 2, 2, 2], room=6)
    [range(0, 2), range(2, 4)]
    """
    fewest = len(list(_greedy(sizes, room)))
    low, high = 1, max(room, 1)
    while low < high:
        middle = (low + high) // 2
        if len(list(_greedy(sizes, middle))) <= fewest:
            high = middle
        else:
            low = middle + 1
    return list(_greedy(sizes, low))


def _greedy(sizes: Sequence[int], room: int) -> Iterator[range]:
    start, used = 0, 0
    for at, size in enumerate(sizes):
        if at > start and used + size > room:
            yield range(start, at)
            start, used = at, 0
        used += size
    if sizes:
        yield range(start, len(sizes))


class _Call(NamedTuple):
    """A call with a template: the most tokens of input."""

    template: str
    variables: Variables
    most: int


class Levels:
    """One merge of many parts. `beside` are the tokens that the stage's own call has beside its template and parts.

    A token counts as four bytes, the mean of English. A quarter of the model's room is left free for denser texts.
    """

    def __init__(
        self,
        stage: ModelStage,
        ctx: StageContext,
        variables: Variables,
        *,
        prompt: str,
        most: int | None,
        beside: int = 0,
    ) -> None:
        self._stage = stage
        self._ctx = ctx
        self._variables = variables
        self._prompt = prompt
        self._most = most
        self._beside = beside
        self._role = stage.chosen_role(ctx, variables)

    async def brought_down(self, items: Sequence[Item], failed: Sequence[Item]) -> list[Item]:
        """Return the parts, merged until they fit into the stage's own call."""
        own = self._call(self._stage.template, {**self._variables, "failed": failed}, None)
        if own is not None:
            own = own._replace(most=own.most - self._beside)
        if own is None or self._fit(own, items):
            return list(items)
        limit = self._limit(own)
        below = self._call(self._prompt, {**self._variables, "words": limit * 6 // 10}, limit)
        assert below is not None
        parts = [_numbered(item, at) for at, item in enumerate(items, start=1)]
        for level in range(1, _MOST_LEVELS + 1):
            parts = await self._level(parts, below, level, limit)
            if self._fit(own, parts):
                return parts
        raise StageError(f"the parts do not fit into one call after {_MOST_LEVELS} levels; {_ADVICE}")

    def _fit(self, call: _Call, parts: Sequence[Item]) -> bool:
        return sum(self._sizes(call, parts)) <= self._free(call)

    def _limit(self, own: _Call) -> int:
        """Return the output limit of a call of a level."""
        free = self._free(own)
        limit = min(self._ctx.models.room(self._role).output, free // _READ_AT_ONCE)
        if limit < _LEAST:
            raise StageError(
                f"a call to {self._role!r} has room for {max(free, 0):,} tokens of parts beside its output; {_ADVICE}"
            )
        return limit

    async def _level(self, parts: list[Item], call: _Call, level: int, limit: int) -> list[Item]:
        sizes, free = self._sizes(call, parts), self._free(call)
        for part, size in zip(parts, sizes, strict=True):
            if size > free:
                raise StageError(
                    f"{part.source['title'].lower()} has about {size:,} tokens, and a call to {self._role!r} has "
                    f"room for {max(free, 0):,} of parts; {_ADVICE}"
                )
        found = groups(sizes, free)
        if len(found) == len(parts) and max(sizes) <= limit:
            raise StageError(f"no two of {len(parts)} parts fit into one call to {self._role!r}; {_ADVICE}")
        self._ctx.events.note(f"level {level}: {len(parts)} parts are merged into {len(found)}")
        return await gathered(
            self._merged([parts[at] for at in group], call, level, number, limit)
            for number, group in enumerate(found, start=1)
        )

    async def _merged(self, parts: list[Item], call: _Call, level: int, number: int, limit: int) -> Item:
        """Merge neighbours in one call; a part that is alone and short enough stays as it is."""
        if len(parts) == 1 and self._sizes(call, parts)[0] <= limit:
            return parts[0].model_copy(update={"index": number - 1})
        ask = Ask(
            role=self._role,
            messages=self._ctx.inputs.render(call.template, {**call.variables, "items": parts}),
            step=f"merge-{level}-{number}",
            max_tokens=limit,
            temperature=self._stage.temperature,
        )
        answer = await self._stage.answer(self._ctx, ask)
        first, last = parts[0].source["first"], parts[-1].source["last"]
        return Item(index=number - 1, source=_place(first, last), value=answer.text, by=answer.by)

    def _call(self, template: str, variables: Variables, output: int | None) -> _Call | None:
        """Return the call with this output limit, or the stage's own; None if its input is unbounded."""
        rooms = [room for room in (self._ctx.models.room(self._role, output).input, self._most) if room is not None]
        return _Call(template, variables, min(rooms) * 3 // 4) if rooms else None

    def _tokens(self, call: _Call, parts: Sequence[Item]) -> int:
        return estimate_input(self._ctx.inputs.render(call.template, {**call.variables, "items": list(parts)}))

    def _free(self, call: _Call) -> int:
        """Return the tokens that are left for parts beside the template's own text."""
        return call.most - (2 * self._tokens(call, [_EMPTY]) - self._tokens(call, [_EMPTY, _EMPTY]))

    def _sizes(self, call: _Call, parts: Sequence[Item]) -> list[int]:
        """Return the tokens of each part in a call, with the text that the template puts around it."""
        one = self._tokens(call, [_EMPTY])
        around = self._tokens(call, [_EMPTY, _EMPTY]) - one
        return [self._tokens(call, [part]) - one + around + 1 for part in parts]


_ADVICE = "split the work into smaller parts, lower `max_tokens`, or give the role a model with a longer context"


def _place(first: int, last: int) -> dict[str, Any]:
    return {"title": f"Part {first}" if first == last else f"Parts {first} to {last}", "first": first, "last": last}


_EMPTY = Item(index=0, source=_place(1, 1), value="")


def _numbered(item: Item, number: int) -> Item:
    """Return the part with its place among all, under its own title if it has one."""
    title = item.source.get("title") if isinstance(item.source, dict) else None
    place = _place(number, number)
    return item.model_copy(update={"source": {**place, "title": title or place["title"]}})
