"""Material: the documents that a pipeline works on, kept apart from the request, and cut into sections."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from fusion.core.errors import InputError
from fusion.core.types import Asked, Attached, File, Item, as_text
from fusion.models.base import estimate_tokens
from fusion.pipeline.spec import InputSpec, Pipeline
from fusion.prompts.filters import fenced
from fusion.stages.text.sections import Document, Section, Sections, cut

CONVERSATION = "conversation"
"""Name of the document that holds the earlier turns of a conversation."""


def material_inputs(pipeline: Pipeline, *, worked_on: Collection[str], read: Collection[str]) -> frozenset[str]:
    """Return the inputs that are material. It depends on the pipeline alone, never on sizes or values.

    `worked_on` names the inputs that stages split or work on item by item, `read` those that any template or
    expression reads by name. Material is what `material` says; else tables, pictures and documents, what is worked
    on, standard input beside another text, and a text beside the request that nothing reads by name.
    """
    inputs = pipeline.inputs
    texts = [name for name, spec in inputs.items() if spec.format == "text"]

    def is_material(name: str, spec: InputSpec) -> bool:
        if spec.material is not None:
            return spec.material
        return spec.format != "text" or name in worked_on or (spec.stdin and len(texts) > 1)

    found = {name for name, spec in inputs.items() if is_material(name, spec)}
    others = [name for name in request_inputs(pipeline, found)[1:] if inputs[name].material is None]
    return frozenset(found.union(name for name in others if name not in read))


def request_inputs(pipeline: Pipeline, material: Collection[str]) -> list[str]:
    """Return the text inputs that may be the request, in order: required ones come first."""
    texts = [name for name, spec in pipeline.inputs.items() if spec.format == "text" and name not in material]
    return sorted(texts, key=lambda name: not pipeline.inputs[name].required)


def documents(material: Collection[str], request: str, inputs: Mapping[str, Any]) -> Iterator[Document]:
    """Yield the documents of a run: texts in the order of the inputs, the conversation, then files."""
    given = [(name, value) for name, value in inputs.items() if name in material]
    for name, value in given:
        if isinstance(value, str) and value.strip():
            yield Document(name, value)
    if isinstance(request, Asked) and request.conversation:
        turns = fenced_turns(request)
        yield Document(CONVERSATION, "\n\n".join(turns), turns)
    for name, value in given:
        if isinstance(value, File):
            yield Document(name, value)
    for file in request.files if isinstance(request, Attached) else ():
        yield Document(file.name or file.kind, file)


def fenced_turns(request: Asked) -> tuple[str, ...]:
    """Return the earlier turns of a conversation, each between marks."""
    return tuple(fenced(turn.text, turn.role) for turn in request.conversation)


class RunMaterial:
    """Material of one run; with `widest`, every subtask reads the largest sections.

    `plans` maps a plan to the sections that its subtasks name; None if all is read.
    """

    def __init__(self, found: Sequence[Document], *, widest: bool = False) -> None:
        self.plans: dict[str, Sections | None] = {}
        self.widest = widest
        self._documents = tuple(found)

    @cached_property
    def whole(self) -> Attached:
        """Every text under its name, then the files."""
        texts = [fenced(one.content, one.name) for one in self._documents if isinstance(one.content, str)]
        return Attached(
            "\n\n".join(texts), tuple(one.content for one in self._documents if isinstance(one.content, File))
        )

    @cached_property
    def sections(self) -> Sections:
        """The sections of all documents."""
        return cut(self._documents)

    @cached_property
    def outline(self) -> Attached:
        """The outline of long material; short material whole."""
        return self.sections.outline() if self.sections.pay else self.whole


def given_sections(source: str, parts: Any) -> Sections:
    """Return the elements of a list as sections: items of a split, rows, or texts. Raises InputError."""
    elements = listed(f"sections: {source}", parts, "name a split, or a list of texts")
    return Sections([_section(at, part) for at, part in enumerate(elements, start=1)])


def listed(what: str, value: Any, hint: str) -> list[Any]:
    """Return the elements of a list. Raises InputError, with a hint, for a text, a mapping or a single value."""
    if isinstance(value, (Mapping, str)) or not hasattr(value, "__iter__"):
        raise InputError(f"`{what}` is {type(value).__name__}, not a list; {hint}")
    return list(value)


def items_of(what: str, value: Any) -> list[Item]:
    """Return the elements of a list as items. Raises InputError for any other value."""
    return [
        element if isinstance(element, Item) else Item(index=index, source=element, value=element)
        for index, element in enumerate(listed(what, value, "name a list or a stage's items"))
    ]


def _section(number: int, part: Any) -> Section:
    source = part.source if isinstance(part, Item) else part
    text = as_text(part.value if isinstance(part, Item) else part)
    title = source.get("title") if isinstance(source, Mapping) else None
    return Section(number, "sections", str(title or ""), text, estimate_tokens(text))
