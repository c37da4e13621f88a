"""Plans of one question to several sections: the sections that the planner names, and a subtask for each."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from fusion.core.schema import array, closed_object, enum, string
from fusion.core.types import JsonSchema
from fusion.stages.subtasks.combine import HOW, KINDS, kind_of
from fusion.stages.text.sections import MOST_NAMED, Sections

NO_WAY: Final = "none"
"""The answer of a planner that chooses no combination."""

_ALL: Final = "all"
_FALLBACK: Final = 3
"""Sections that are read if the planner names none that exists."""


def sectioned_schema(most: int, *, combines: bool) -> JsonSchema:
    """Return the schema of the planner's reply: at most so many sections, the combination, and the questions."""
    how = {"how": enum((*HOW, NO_WAY))} if combines else {}
    other = {"other": {"anyOf": [{"type": "null"}, string(300)]}} if combines else {}
    return closed_object({"sections": array(string(200), most), **how, "find": string(500), **other})


def sectioned_plan(reply: Mapping[str, Any], sections: Sections, request: str, most: int) -> "SectionedPlan":
    """Return the plan that a reply asks for. If it names no section that exists, the best for its words are read."""
    plan = SectionedPlan(reply, request)
    for name in _named(reply.get("sections", ()), sections):
        numbers = sections.called(name)
        if numbers:
            plan.add(name, numbers[:MOST_NAMED], sections)
        else:
            plan.unknown.append(name)
    if not plan.subtasks:
        plan.found = sections.found(f"{request}\n{plan.question}", seen=(), count=_FALLBACK)
        for number in plan.found:
            plan.add(str(number), [number], sections)
    plan.left_out = max(0, len(plan.subtasks) - most)
    del plan.subtasks[most:]
    if not plan.subtasks:
        plan.add("", [], sections)
    return plan


class SectionedPlan:
    """A plan of one question to several sections.

    `unknown` are names without a section, `found` the sections that were found by words in place of named ones, and
    `left_out` is the number of subtasks beyond the most.
    """

    def __init__(self, reply: Mapping[str, Any], request: str) -> None:
        how = reply.get("how")
        self.combine = {"how": how, "only": True} if how in HOW else None
        self.question = str(reply.get("find") or "").strip() or request
        self.subtasks: list[dict[str, Any]] = []
        self.unknown: list[str] = []
        self.found: list[int] = []
        self.left_out = 0
        self._kind = kind_of(how) if self.combine else KINDS[0]
        self._other = str(reply.get("other") or "").strip() if how in ("highest", "lowest") else ""

    def add(self, name: str, numbers: list[int], sections: Sections) -> None:
        """Add the subtask of the sections of one name, unless another one reads the same."""
        if any(numbers == one["sections"] for one in self.subtasks):
            return
        self.subtasks.append(
            {
                "title": sections.title_of(numbers) if numbers else self.question[:60],
                "instructions": self.question,
                "needs": [],
                "sections": numbers,
                "difficulty": 1,
                "capabilities": [],
                "expected_output": "",
                "criteria": [],
                "value": self._kind,
                "brief": True,
                "other": self._other,
            }
        )

    def notes(self) -> Iterator[str]:
        """Yield remarks on names without a section, and on what is read in their place."""
        if self.unknown:
            yield f"the plan names sections that do not exist, dropped: {', '.join(map(repr, self.unknown[:10]))}"
        if self.found:
            words = ", ".join(map(str, self.found))
            yield f"the plan names no section that exists; reading the best for its words: {words}"
        if self.left_out:
            yield f"the plan has {self.left_out} subtasks more than `max_subtasks`; they are left out"


def _named(given: Any, sections: Sections) -> Iterable[str]:
    """Return the names of a reply; the numbers of all sections for "all"."""
    names = [str(one).strip() for one in given if str(one).strip()] if isinstance(given, list) else []
    if [name.casefold() for name in names] == [_ALL] and not sections.called(names[0]):
        return [str(one.number) for one in sections.all]
    return names
