"""Built-in tools of the documents of a run: `material.search` and `material.sections`."""

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fusion.core.bounded import clock
from fusion.core.types import ToolResult, ToolSpec
from fusion.stages.text.ranking import matching
from fusion.stages.text.sections import Section
from fusion.tools.base import Tool

if TYPE_CHECKING:
    from fusion.pipeline.material import RunMaterial

_MOST: Final = 3
"""Sections of a result."""
_BEGINNING: Final = 8
"""Words by which a section without a heading is named."""
_SPEC: Final = ToolSpec(
    name="material_search",
    description="Search the documents by words. Returns the best sections, each under its name in square brackets.",
    parameters={
        "type": "object",
        "properties": {
            "query": {
                "type": "string",
                "minLength": 1,
                "maxLength": 300,
                "description": "Words that the section may have.",
            }
        },
        "required": ["query"],
        "additionalProperties": False,
    },
)
_SECTIONS: Final = ToolSpec(
    name="material_sections",
    description="List the names of all sections of the documents.",
    parameters={"type": "object", "properties": {}, "additionalProperties": False},
)


class MaterialSearch(Tool):
    """Searches the sections of the material of a run, with BM25. It needs no network, and changes nothing."""

    spec = _SPEC
    effect = "read"

    def __init__(self, material: "RunMaterial") -> None:
        self._material = material

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        sections = _texts_of(self._material)
        if not sections:
            return ToolResult("There are no documents to search.", failed=True)
        query, texts = str(arguments["query"]), [f"{one.title}\n{one.text}" for one in sections]
        found = await clock.run(partial(matching, query, texts), size=sum(map(len, texts)))
        if not found:
            return ToolResult(f"No section has a word of {query!r}. Search with other words.", [])
        best = [sections[at] for at in found[:_MOST]]
        text = "\n\n".join(f"[{name_of(one)}]\n{one.text.strip()}" for one in best)
        return ToolResult(text, [{"source": name_of(one), "text": one.text.strip()} for one in best])


class MaterialSections(Tool):
    """Lists the names of the sections that `material.search` finds, by which an answer cites them."""

    spec = _SECTIONS
    effect = "read"

    def __init__(self, material: "RunMaterial") -> None:
        self._material = material

    async def call(self, arguments: dict[str, Any]) -> ToolResult:
        names = [name_of(one) for one in _texts_of(self._material)]
        return ToolResult("\n".join(names) or "There are no documents.", names)


def _texts_of(material: "RunMaterial") -> list[Section]:
    return [one for one in material.sections.all if one.file is None]


def name_of(section: Section) -> str:
    """Return the name by which an answer cites a section: document, number, and heading or first words."""
    words = section.text.split()
    beginning = " ".join(words[:_BEGINNING]) + ("…" if len(words) > _BEGINNING else "")
    title = " ".join((section.title or beginning).replace("[", "(").replace("]", ")").split())[:80]
    return f"{section.document} {section.number}: {title}"
