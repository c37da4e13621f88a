"""Registry of the kinds of stages: built-in ones and those of plug-ins, checked in the same way."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Final, Literal, get_args, get_origin

from fusion.core.errors import UsageError
from fusion.stages.base import ModelStage, OutputField, Stage

GROUP = "fusion.stages"
"""Entry point group of plug-ins: each entry is a subclass of Stage."""

_BUILT_IN: Final = {
    "generate": "Generate",
    "plan": "Plan",
    "split": "Split",
    "map": "Map",
    "review": "Review",
    "merge": "Merge",
    "render": "Render",
    "panel": "Panel",
    "judge": "Judge",
    "synthesize": "Synthesize",
    "vote": "Vote",
    "best_of": "BestOf",
    "loop": "Loop",
    "cascade": "Cascade",
    "verify": "Verify",
    "route": "Route",
    "pipeline": "PipelineStage",
    "tool": "ToolStage",
    "python": "PythonStage",
    "gate": "Gate",
}
"""The class of each built-in kind, in the module of the kind's name."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class _Kinds(Mapping[str, type[Stage]]):
    """Kinds by name. A built-in one is imported when it is first used, since a pipeline uses few of them."""

    def __init__(self, plug_ins: Mapping[str, type[Stage]]) -> None:
        self._plug_ins = plug_ins

    def __getitem__(self, kind: str) -> type[Stage]:
        return self._plug_ins[kind] if kind in self._plug_ins else _built_in(kind)

    def __contains__(self, kind: object) -> bool:
        return kind in self._plug_ins or kind in _BUILT_IN

    def __iter__(self) -> Iterator[str]:
        yield from _BUILT_IN
        yield from self._plug_ins

    def __len__(self) -> int:
        return len(_BUILT_IN) + len(self._plug_ins)


@cache
def kinds() -> Mapping[str, type[Stage]]:
    """Return every kind by its name. Raises UsageError, which names the plug-in, if one cannot be loaded."""
    return _Kinds(_checked(_plug_ins()))


def _built_in(kind: str) -> type[Stage]:
    name = _BUILT_IN[kind]
    cls: type[Stage] = getattr(import_module(f"fusion.stages.kinds.{kind}"), name)
    return cls


def _checked(plug_ins: Iterable[tuple[Any, str]]) -> dict[str, type[Stage]]:
    """Return the kinds of (class, source) pairs. Raises UsageError for a class that is not a kind of its own."""
    known: dict[str, type[Stage]] = {}
    sources: dict[str, str] = {}
    for cls, source in plug_ins:
        if flaw := _flaw(cls):
            raise UsageError(f"{_name(cls)} of {source} is no kind of stage: {flaw}")
        (kind,) = get_args(cls.model_fields["kind"].annotation)
        if kind in known or kind in _BUILT_IN:
            other, origin = (known[kind], sources[kind]) if kind in known else (_built_in(kind), "Fusion")
            raise UsageError(
                f"two stages are of the kind {kind!r}: {_name(other)} of {origin} and {_name(cls)} of "
                f"{source}; uninstall one of them"
            )
        known[kind], sources[kind] = cls, source
    return known


def _plug_ins() -> Iterator[tuple[Any, str]]:
    from importlib.metadata import entry_points

    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        source = f"the plug-in {entry.name!r}" + (f" of the package {entry.dist.name!r}" if entry.dist else "")
        try:
            yield entry.load(), source
        except Exception as error:  # a plug-in's module may raise anything
            raise UsageError(
                f"{source} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}; mend or uninstall it"
            ) from error


def _flaw(cls: Any) -> str:
    """Return the reason why a class is not a kind; empty if it is one."""
    if not (inspect.isclass(cls) and issubclass(cls, Stage)):
        return "it is not a subclass of fusion.stages.Stage"
    if inspect.isabstract(cls):
        return f"it does not define {', '.join(sorted(cls.__abstractmethods__))}"
    annotation = cls.model_fields["kind"].annotation
    names = get_args(annotation) if get_origin(annotation) is Literal else ()
    if len(names) != 1 or not isinstance(names[0], str) or not _NAME.fullmatch(names[0]):
        return 'it needs one name of its own: kind: Literal["name"] = "name", in lowercase letters'
    if cls.model_fields["kind"].default != names[0]:
        return f"the default of its `kind` has to be {names[0]!r}"
    return _output_flaw(cls)


def _output_flaw(cls: type[Stage]) -> str:
    outputs = getattr(cls, "outputs", ())
    if not outputs or not all(isinstance(output, OutputField) for output in outputs):
        return "it declares no output fields: outputs: ClassVar = (OutputField(...),)"
    if len({output.name for output in outputs}) < len(outputs):
        return "two of its output fields have the same name"
    if issubclass(cls, ModelStage) and not hasattr(cls, "default_prompt"):
        return "it has no `default_prompt`, the name of the template that is used by default"
    return ""


def _name(cls: Any) -> str:
    return cls.__name__ if inspect.isclass(cls) else repr(cls)
