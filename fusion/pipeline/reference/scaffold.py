"""Scaffold: a copy of a pipeline and its templates, with a comment on every key."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusion.core.errors import UsageError
from fusion.core.paths import read_text
from fusion.pipeline.loader import load_file
from fusion.pipeline.reference.explain import comments
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import TEMPLATE_SUFFIX, Library
from fusion.prompts.template import is_template_name
from fusion.stages.base import Stage

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_INCLUDE = re.compile(r"""({%-?\s*include\s+)(["'])([^"']+)\2""")
_HEAD = """\
# yaml-language-server: $schema=./pipeline.schema.json
# {name}: a copy of {source} to edit. Its templates are in prompts/{name}/.
# `fusion validate {name}.yaml` finds every mistake, `fusion run {name}.yaml --dry-run …` shows the prompts of a run.
"""


def draft(name: str, path: Path, *, library: Library) -> dict[str, str]:
    """Return the files of a new pipeline by path: a copy of the one at `path`, its templates, its schemas.

    Raises UsageError for an invalid or used name, PipelineError for a pipeline with mistakes.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"invalid pipeline name {name!r}: use letters, digits, - and _, without a folder or .yaml")
    loaded = load_file(path, library)
    source, copying = loaded.pipeline, _Copying(name, loaded.prompts.library)
    stages = {stage: copying.stage(stage, given) for stage, given in source.stages.items()}
    made = source.model_copy(update={"name": name, "stages": stages})
    head = _HEAD.format(name=name, source=source.name)
    return {
        f"{name}.yaml": head + made.to_yaml(comments=comments(made)),
        **copying.files,
        **_shapes(made, path.parent),
    }


class _Copying:
    """Copies templates and the files that they include into the folder of the new pipeline."""

    def __init__(self, folder: str, library: Library) -> None:
        self.files: dict[str, str] = {}
        self._folder = folder
        self._library = library

    def stage(self, name: str, stage: Stage) -> Stage:
        """Return the stage, and those within it, with their named templates replaced by copies."""
        copied: dict[str, Any] = {
            key: {**getattr(stage, key), **{one: self.stage(f"{name}-{one}", inner) for one, inner in stages.items()}}
            for key, stages in _within(stage)
        }
        for use in stage.prompts():
            if is_template_name(use.template) and use.key in type(stage).model_fields:
                part = use.key.removesuffix("prompt").removesuffix("_")
                copied[use.key] = self._template(use.template, f"{name}-{part}" if part else name)
        return stage.model_copy(update=copied)

    def _template(self, given: str, part: str) -> str:
        """Copy a template and return the name of the copy."""
        name = f"{self._folder}/{part}"
        file = f"prompts/{name}{TEMPLATE_SUFFIX}"
        if file in self.files:
            return name
        if self._library.template(name) is not None:
            raise UsageError(f"the template {name!r} exists already; choose another name than {self._folder!r}")
        found = self._library.template(given)
        assert found is not None  # the pipeline has been checked
        self.files[file] = ""
        self.files[file] = _INCLUDE.sub(self._included, found[0])
        return name

    def _included(self, include: re.Match[str]) -> str:
        return f'{include[1]}"{self._template(include[3], include[3].replace("/", "-"))}"'


def _within(stage: Stage) -> Iterator[tuple[str, Mapping[str, Stage]]]:
    """Yield (key, stages) for the inner stages and the body of a stage."""
    if stage.inner():
        yield stage.inner_key, stage.inner()
    if stage.graph is not None:
        yield stage.graph.key, stage.graph.stages


def _all(stage: Stage) -> Iterator[Stage]:
    """Yield a stage and all stages within it."""
    yield stage
    for _, stages in _within(stage):
        for one in stages.values():
            yield from _all(one)


def _shapes(pipeline: Pipeline, near: Path) -> dict[str, str]:
    """Return the schema files beside a pipeline."""
    stages = [one for stage in pipeline.stages.values() for one in _all(stage)]
    named = {shape for stage in stages for _, shape in stage.schemas() if isinstance(shape, str)}
    return {name: read_text(near / name) for name in sorted(named)}
