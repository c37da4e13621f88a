"""Registry of the kinds of stages: built-in ones and those of plug-ins, checked in the same way."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from fusion.core.errors import UsageError
from fusion.stages.base import ModelStage, OutputField, Stage
from fusion.stages.kinds.cascade import Cascade
from fusion.stages.kinds.generate import Generate
from fusion.stages.kinds.judge import Judge
from fusion.stages.kinds.map import Map
from fusion.stages.kinds.merge import Merge
from fusion.stages.kinds.panel import Panel
from fusion.stages.kinds.pipeline import PipelineStage
from fusion.stages.kinds.plan import Plan
from fusion.stages.kinds.render import Render
from fusion.stages.kinds.review import Review
from fusion.stages.kinds.route import Route
from fusion.stages.kinds.split import Split
from fusion.stages.kinds.synthesize import Synthesize
from fusion.stages.kinds.vote import Vote

GROUP = "fusion.stages"
"""Entry point group of plug-ins: each entry is a subclass of Stage."""

_BUILT_IN: tuple[type[Stage], ...] = (
    Generate,
    Plan,
    Split,
    Map,
    Review,
    Merge,
    Render,
    Panel,
    Judge,
    Synthesize,
    Vote,
    Cascade,
    Route,
    PipelineStage,
)
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@cache
def kinds() -> Mapping[str, type[Stage]]:
    """Return every kind by its name. Raises UsageError, which names the plug-in, if one cannot be loaded."""
    return register((*((cls, "Fusion") for cls in _BUILT_IN), *_plug_ins()))


def register(classes: Iterable[tuple[Any, str]]) -> Mapping[str, type[Stage]]:
    """Return the kinds of (class, source) pairs. Raises UsageError for a class that is not a kind."""
    known: dict[str, type[Stage]] = {}
    sources: dict[str, str] = {}
    for cls, source in classes:
        if flaw := _flaw(cls):
            raise UsageError(f"{_name(cls)} of {source} is no kind of stage: {flaw}")
        (kind,) = get_args(cls.model_fields["kind"].annotation)
        if kind in known:
            raise UsageError(
                f"two stages are of the kind {kind!r}: {_name(known[kind])} of {sources[kind]} and {_name(cls)} of "
                f"{source}; uninstall one of them"
            )
        known[kind], sources[kind] = cls, source
    return MappingProxyType(known)


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
