"""Reading: the sections that a subtask reads, and the reply that they lack what it needs."""

from typing import Any, Final, NamedTuple

from fusion.core.schema import string
from fusion.core.types import Attached, JsonSchema
from fusion.stages.text.sections import Sections

MARK: Final = "NOT IN SECTIONS"
KEY: Final = "not_in_sections"
_MISSING: Final[JsonSchema] = {"anyOf": [{"type": "null"}, string(300)]}
_LONGEST: Final = 2000  # characters of a reply that says that the sections lack something

_IN_TEXT: Final = (
    "These are the sections of the material for this subtask. Answer from them. Where they do not mention what is "
    f"asked, answer with {MARK} and name what is not there, in one line."
)
_IN_DATA: Final = (
    "These are the sections of the material for this subtask. If they lack what it needs, say under "
    f"`{KEY}` what you miss; else it is null."
)


class Reading(NamedTuple):
    """Sections that an item names, out of all."""

    sections: Sections
    numbers: tuple[int, ...]

    def material(self, *, shaped: bool = False, brief: bool = False) -> Attached:
        """Return the sections as text, with the way to say that they lack something.

        A `brief` reply has values only, and says it by null.
        """
        if not self.numbers:
            return Attached()
        shown = self.sections.shown(self.numbers)
        if brief:
            return shown
        return Attached(f"{shown}\n\n{_IN_DATA if shaped else _IN_TEXT}", shown.files)

    def with_more(self, query: str) -> "Reading | None":
        """Return the reading with as many unseen sections, the best for a query; None if all are seen."""
        more = self.sections.found(query, seen=self.numbers, count=max(len(self.numbers), 1))
        return self._replace(numbers=(*self.numbers, *more)) if more else None


def without_notice(shown: Attached) -> Attached:
    """Return what a worker was shown, without the way to say that its sections lack something."""
    return Attached(shown.replace(f"\n\n{_IN_DATA}", "").replace(f"\n\n{_IN_TEXT}", ""), shown.files)


def with_missing(schema: JsonSchema) -> JsonSchema:
    """Return the schema of an object with a nullable last property for what the sections lack."""
    properties = {**schema["properties"], KEY: _MISSING}
    return {**schema, "properties": properties, "required": [*schema.get("required", ()), KEY]}


def is_object(schema: JsonSchema | None) -> bool:
    """Return True for the schema of an object with named properties."""
    return schema is not None and schema.get("type") == "object" and isinstance(schema.get("properties"), dict)


def missing_in(text: str, data: Any) -> str:
    """Return what a reply says that its sections lack; empty if it says nothing of the kind."""
    if isinstance(data, dict):
        return str(data.get(KEY) or "").strip()
    said = text.strip().strip("*_`\"' ")
    if data is not None or len(said) > _LONGEST or not said.upper().startswith(MARK):
        return ""
    return said[len(MARK) :].strip(" :.") or "it does not say what"


def without_missing(data: Any) -> Any:
    """Return the data of a reply without the property for what the sections lack."""
    return {key: value for key, value in data.items() if key != KEY} if isinstance(data, dict) else data
