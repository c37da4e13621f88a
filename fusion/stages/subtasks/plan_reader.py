"""Reader of a plan: parses its subtasks while the reply is streamed."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from fusion.core.schema.strict_json import DECODER, loaded
from fusion.core.types import CallKey, Item, JsonSchema, Reply, Usage, whole_data
from fusion.models.structured import reading
from fusion.stages.context import Answer, Ask, StageContext
from fusion.stages.feed import Feed
from fusion.stages.subtasks.combine import KINDS, combine_of
from fusion.stages.text.sections import MOST_NAMED, Sections, ranges

HEAD = ("goal", "constraints", "merge_instructions", "combine")
_LEAVINGS = " \t\r\n,}`"  # after a list that the model forgot to close
_BETWEEN = re.compile(r"[ \t\r\n,]*+")
_SHORT = 16_384
_GROWTH = 1.5
_MOST_LEFT_OUT = 100
_KEY = '"subtasks"'
_SUBTASKS = re.compile(r'(?<!\\)"subtasks"\s*:\s*\[')


class Taken(NamedTuple):
    """Bounds of a plan: the most subtasks, the sections that they may name, and whether values may be combined."""

    most: int
    sections: Sections
    combines: bool = False


class PlanReader:
    """Plan reader: hands each subtask on as soon as its JSON object is complete.

    An object is parsed only after a `}`, and the buffer is cut after each parsed object. A partial parser would take
    `"difficulty": 1` for complete before `12` has arrived.
    """

    def __init__(
        self, bounds: Taken, give_head: Callable[[dict[str, Any]], None], feed: Feed[Item], ctx: StageContext
    ) -> None:
        self._most = bounds.most
        self._bounds = bounds
        self._give_head: Callable[[dict[str, Any]], None] | None = give_head
        self._feed = feed
        self._ctx = ctx
        self._unread = 0  # length of a buffer that ends within an object
        self._buffer = ""
        self._in_list = False
        self._number = 0
        self._indexes: dict[int, int] = {}
        self._subtasks: list[dict[str, Any]] = []
        self._head: dict[str, Any] = {}
        self._streamed = False
        self._told_of_more = False
        self.ended = False
        self.last = ""
        self.calls: tuple[CallKey, ...] = ()
        self._ask: Ask | None = None
        self._taken = 0  # of the reply to `_ask`

    @property
    def committed(self) -> bool:
        return bool(self._subtasks)

    @property
    def accepted(self) -> int:
        return len(self._subtasks)

    @property
    def torn(self) -> bool:
        """True if the list of subtasks holds text that cannot be parsed."""
        return self._in_list and not self.ended and bool(self._buffer.strip(_LEAVINGS))

    def as_plan(self) -> dict[str, Any]:
        """Return the accepted part of the plan."""
        return {**self._head, "subtasks": self._subtasks}

    def add(self, text: str) -> None:
        self._streamed = True
        self._buffer += text
        if "}" in text or "]" in text or not self._in_list:
            self._read()

    def restart(self) -> None:
        self._buffer, self._in_list, self._number, self.ended, self._streamed = "", False, 0, False, False
        self._unread = 0
        self._indexes.clear()
        self._taken = 0

    def next_part(self) -> None:
        """Start a reply that continues the accepted part: its numbers refer to the subtasks that it was shown."""
        self._buffer, self._in_list, self.ended, self._streamed = "", False, False, False
        self._number, self._unread = len(self._subtasks), 0
        self._indexes = {index + 1: index for index in range(len(self._subtasks))}

    def begin(self, ask: Ask) -> bool:
        """Start the reply to `ask`. Return True if it broke off before the run was resumed.

        The subtasks accepted at that time are accepted again, and no request is sent.
        """
        self._ask, self._taken = ask, 0
        if self._kept("1") is None or self._ctx.journal.has_reply(ask):
            return False
        self._take_head(self._kept("head") or {})
        number = 1
        while (subtask := self._kept(str(number))) is not None:
            self._accept(subtask)
            number += 1
        self.ended = bool(self._kept("end"))
        return True

    def _kept(self, name: str) -> Any:
        return self._ctx.journal.kept(f"subtask {name}", of=self._ask)

    def _keep(self, name: str, value: Any) -> None:
        if self._ask is not None:
            self._ctx.journal.keep(f"subtask {name}", value, of=self._ask)

    def take(self, answer: Answer) -> None:
        """Take the whole reply, and parse it if it was not streamed."""
        self.last = answer.text
        self.calls = (*self.calls, *answer.calls)
        self._unread = 0
        if self._streamed:
            self._read()
        else:
            self.add(answer.text)

    async def read_whole(self, schema: JsonSchema) -> list[str]:
        """Parse the last reply as a whole, with repair. Return its errors; empty if it is usable."""
        if not self.last.strip():
            return ["the answer was empty or broke off"]
        whole = Reply(text=self.last, finish_reason="stop", usage=Usage(), asked="", served="")
        data, errors = await reading(whole, schema)
        if errors:
            return errors
        self._take_head(data)
        for subtask in data["subtasks"]:
            self._take(subtask)
        return [] if self.committed else ["it has no subtasks with instructions"]

    def _read(self) -> None:
        if self.ended or len(self._buffer) < self._unread * _GROWTH:
            return  # a long text is read again only after it has grown
        if not self._in_list:
            begin = _SUBTASKS.search(self._buffer) if _KEY in self._buffer else None
            if begin is None:
                self._unread = len(self._buffer) if len(self._buffer) > _SHORT else 0
                return
            self._take_head(_head_of(self._buffer[: begin.start()]))
            self._buffer = self._buffer[begin.end() :]
            self._in_list = True
        at = 0
        while (end := self._read_one(at)) is not None:
            at = end
        self._buffer = self._buffer[at:]
        self._unread = len(self._buffer) if len(self._buffer) > _SHORT else 0

    def _read_one(self, at: int) -> int | None:
        """Take the subtask at a position of the buffer; return the position behind it, None if none is complete."""
        space = _BETWEEN.match(self._buffer, at)
        at = at if space is None else space.end()
        if self._buffer.startswith("]", at) or self._number > self._most + _MOST_LEFT_OUT:
            self.ended = True
            self._keep("end", True)
        if at == len(self._buffer) or self.ended:
            return None
        try:
            subtask, end = DECODER.raw_decode(self._buffer, at)
            subtask = whole_data(subtask) if "\\u" in self._buffer[at:end] else subtask
        except (ValueError, RecursionError):
            return None
        if not isinstance(subtask, dict) and end == len(self._buffer):
            return None  # it may be incomplete: 1 may be 12
        self._take(subtask)
        return end

    def _take_head(self, head: dict[str, Any]) -> None:
        if self._give_head is not None:
            self._head = {name: head[name] for name in HEAD if name in head}
            if "combine" in self._head and not (self._bounds.combines and combine_of(self._head["combine"])):
                self._head["combine"] = None
            self._keep("head", self._head)
            self._give_head(self._head)
            self._give_head = None

    def _take(self, raw: Any) -> None:
        self._number += 1
        if not isinstance(raw, dict):
            self._ctx.events.note(f"subtask {self._number} is not an object and is left out")
            return
        if len(self._subtasks) >= self._most:
            if not self._told_of_more:
                self._ctx.events.note(
                    f"the plan has more than {self._most} subtasks; the rest is left out (max_subtasks)"
                )
                self._told_of_more = True
            return
        title, instructions = _text(raw, "title"), _text(raw, "instructions")
        if not (title or instructions):
            self._ctx.events.note(f"subtask {self._number} has no instructions and is left out")
            return
        subtask = {
            "title": title or instructions[:60],
            "instructions": instructions or title,
            "needs": [need + 1 for need in self._needs(raw)],
            "sections": self._sections(raw, title),
            "difficulty": _difficulty(raw.get("difficulty")),
            "capabilities": _texts(raw, "capabilities"),
            "expected_output": _text(raw, "expected_output"),
            "criteria": _texts(raw, "criteria"),
            "value": raw.get("value") if self._head.get("combine") and raw.get("value") in KINDS else KINDS[0],
        }
        self._taken += 1
        self._keep(str(self._taken), subtask)
        self._indexes[self._number] = len(self._subtasks)
        self._accept(subtask)

    def _accept(self, subtask: dict[str, Any]) -> None:
        """Hand a subtask on for good."""
        index = len(self._subtasks)
        needs = tuple(need - 1 for need in subtask["needs"])
        self._subtasks.append(subtask)
        self._feed.append(Item(index=index, source=subtask, value=subtask, needs=needs))
        self._ctx.outputs.grow(len(self._subtasks), title=subtask["title"])

    def _needs(self, raw: dict[str, Any]) -> tuple[int, ...]:
        """Return the indexes of earlier subtasks; a need of anything else is dropped with a note."""
        given = raw.get("needs")
        needs: list[int] = []
        for number in given if isinstance(given, list) else []:
            index = self._indexes.get(number) if isinstance(number, int) and not isinstance(number, bool) else None
            if index is None:
                self._ctx.events.note(
                    f"subtask {self._number} needs {number!r}, which is not an earlier subtask; the need is dropped"
                )
            elif index not in needs:
                needs.append(index)
        return tuple(needs)

    def _sections(self, raw: dict[str, Any], title: str) -> list[int]:
        """Return the numbers of existing sections; others are dropped with a note."""
        given = raw.get("sections")
        numbers: list[int] = []
        for number in given if isinstance(given, list) and self._bounds.sections else []:
            whole = isinstance(number, int) and not isinstance(number, bool)
            if not (whole and 1 <= number <= len(self._bounds.sections)):
                self._ctx.events.note(
                    f"subtask {self._number} names section {number!r}, which does not exist: dropped"
                )
            elif number not in numbers:
                numbers.append(number)
        if len(numbers) > MOST_NAMED:
            self._ctx.events.note(f"subtask {self._number} names {len(numbers)} sections; it reads {MOST_NAMED}")
        return self._meant(title, numbers[:MOST_NAMED])

    def _meant(self, title: str, numbers: list[int]) -> list[int]:
        """Return the sections whose heading is the title of a subtask, if it names others: it has miscounted."""
        headed = self._bounds.sections.headed(title)[:MOST_NAMED] if numbers else []
        if not headed or not set(headed).isdisjoint(numbers):
            return numbers
        called, named = f"is called {title!r}", f"names section {ranges(numbers)}"
        self._ctx.events.note(f"subtask {self._number} {called} and {named}; it reads {ranges(headed)}")
        return headed

    def unnamed(self) -> list[int]:
        """Return the sections that no subtask names."""
        named = {number for subtask in self._subtasks for number in subtask["sections"]}
        return [number for number in range(1, len(self._bounds.sections) + 1) if number not in named]


def _head_of(text: str) -> dict[str, Any]:
    """Return the fields before the subtasks: goal, constraints, merge instructions."""
    begin = text.find("{")
    try:
        head = loaded(text[begin:].rstrip().rstrip(",") + "}") if begin >= 0 else {}
    except (ValueError, RecursionError):
        head = {}
    return head if isinstance(head, dict) else {}


def _text(raw: dict[str, Any], key: str) -> str:
    value = raw.get(key)
    return value.strip() if isinstance(value, str) else ""


def _texts(raw: dict[str, Any], key: str) -> list[str]:
    value = raw.get(key)
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _difficulty(value: Any) -> int:
    return min(max(value, 1), 5) if isinstance(value, int) else 3
