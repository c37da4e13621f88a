"""Candidates: every combination of the open values of a suite's arms and pipelines, each written as a file."""

import hashlib
import shutil
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusion.bench.arms.base import resolve_model, short_name
from fusion.bench.suite import Arm, Document, Suite
from fusion.bench.tuner.search import OpenPipeline, only_asked, read_search
from fusion.bench.tuner.search_space import Choice, Open, Variant, open_places, size, variants
from fusion.core.errors import PipelineError, Problem, UsageError
from fusion.core.paths import read_text
from fusion.core.yaml import MAX_BYTES, Place, read_yaml
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library

MAX_CANDIDATES: Final = 1000
_MAX_NAME: Final = 200
_NAMED_FILES: Final = (".yaml", ".yml", ".json", ".j2")


class Candidate(NamedTuple):
    """An arm without open values, and its choices."""

    name: str
    arm: Arm
    choices: tuple[Choice, ...]


class OpenArm(NamedTuple):
    """An arm whose pipeline has cascades to search. `whole` names all of their models, and is never asked.

    `given` is the author's arm. `voters` are the candidates that ask one model each, by its name in the pipeline;
    empty where such a call is that of the model alone.
    """

    whole: Candidate
    given: Arm
    pipeline: OpenPipeline
    voters: Mapping[str, Candidate]
    home: "_Home"

    def write(self, data: Mapping[str, Any]) -> Candidate:
        """Write a pipeline that is made of this one, with the roles that it asks."""
        return self.home.write(Pipeline.from_data(data), self.given, self.whole.choices, used=True)


class Candidates(NamedTuple):
    """The suite with every candidate as an arm, and notes on invalid combinations.

    The arms of `open` are in the suite too: they name the models to search, and are never asked.
    """

    suite: Suite
    made: Mapping[str, Candidate]
    open: tuple[OpenArm, ...]
    left_out: tuple[str, ...]


def candidates(
    source: Document, near: Path, folder: Path, library: Library, endpoints: Collection[str] = ()
) -> Candidates:
    """Write every candidate of a suite's file to a folder. `endpoints` are the names of the user's servers.

    Raises PipelineError with every mistake in the suite and its pipelines. Raises UsageError without open values, or
    with too many.
    """
    file = source.file
    arms = source.data.get("arms")
    if not isinstance(arms, Mapping) or not arms:
        raise PipelineError([source.problem(("arms",), "expected the arms to tune, by name")])
    made: list[Candidate] = []
    open_: list[OpenArm] = []
    left_out: list[str] = []
    most_tokens = source.data.get("max_tokens", Suite.model_fields["max_tokens"].default)
    found = {name: _open_arm(name, source, near, library, endpoints, most_tokens) for name in arms}
    number = sum(one.size for one in found.values())
    if number > MAX_CANDIDATES:
        raise UsageError(f"{file}: {number:,} candidates; the most is {MAX_CANDIDATES:,}: leave less open")
    for one in found.values():
        own, searched, notes = one.candidates(folder)
        made += own
        open_ += searched
        left_out += notes
    if not open_ and not any(one.places for one in found.values()):
        raise UsageError(
            f"{file}: no open value; write {{any: [a, b]}} in place of a value to choose, or {{search: {{models: "
            "[a, b, c]}} in place of a cascade's `tiers`"
        )
    closed = {one.name: one.arm.model_dump(exclude_defaults=True) for one in (*made, *(each.whole for each in open_))}
    suite, problems = Variant({"name": Path(file).stem, **source.data, "arms": closed}, ()).validate(Suite, source)
    if problems or suite is None:
        raise PipelineError(problems)
    return Candidates(suite, {one.name: one for one in made}, tuple(open_), tuple(left_out))


def read_document(file: Path) -> Document:
    """Read a YAML file. Raises PipelineError if it holds no mapping."""
    data, problems, positions = read_yaml(read_text(file, most=MAX_BYTES), file=str(file))
    source = Document(str(file), data, positions)
    if not problems and not isinstance(data, dict):
        problems = [source.problem((), "expected a mapping")]
    if problems:
        raise PipelineError(problems)
    return source


def _places(source: Document, at: Place = ()) -> list[Open]:
    places, problems = open_places(source, at=at)
    if problems:
        raise PipelineError(problems)
    return places


def _open_arm(
    name: str, suite: Document, near: Path, library: Library, endpoints: Collection[str], max_tokens: int
) -> "_OpenArm":
    """Find the open values of an arm and of its possible pipelines."""
    at = ("arms", name)
    places = _places(suite, at)
    pipelines: dict[str, tuple[Document, list[Open]]] = {}
    closed = []
    for variant in variants(suite.data["arms"][name], places, at=at):
        arm, problems = variant.validate(Arm, suite, at=at)
        if problems or arm is None:
            raise PipelineError(problems)
        if arm.pipeline is not None and arm.pipeline not in pipelines:
            beside = near / arm.pipeline
            source = read_document(beside if beside.is_file() else library.pipeline(arm.pipeline))
            pipelines[arm.pipeline] = source, _places(source)
        closed.append((arm, variant.choices))
    places += (place for _, own in pipelines.values() for place in own)
    return _OpenArm(name, near, closed, pipelines, places, endpoints, max_tokens)


class _OpenArm(NamedTuple):
    """An arm with open values. `arms` are its variants; `pipelines` are documents with their open places.

    `max_tokens` is the output limit of the suite's single models.
    """

    name: str
    near: Path
    arms: list[tuple[Arm, tuple[Choice, ...]]]
    pipelines: Mapping[str, tuple[Document, list[Open]]]
    places: list[Open]
    endpoints: Collection[str]
    max_tokens: int

    @property
    def size(self) -> int:
        return sum(size(self.pipelines[arm.pipeline][1]) if arm.pipeline else 1 for arm, _ in self.arms)

    def candidates(self, folder: Path) -> tuple[list[Candidate], list[OpenArm], list[str]]:
        """Write the files of the candidates. Returns them, those to search, and notes on invalid combinations."""
        made: list[Candidate] = []
        open_: list[OpenArm] = []
        wrong: list[tuple[Variant, list[Problem]]] = []
        used: set[tuple[Any, ...]] = set()
        for arm, chosen in self.arms:
            if arm.pipeline is None:
                name = self.name if not chosen else f"{self.name} ({', '.join(map(str, chosen))})"
                made.append(Candidate(name, arm, chosen))
                continue
            source, places = self.pipelines[arm.pipeline]
            for variant in variants(source.data, places):
                searched, problems = self._searched(variant, arm, source)
                data = variant.data if searched is None else searched.whole()
                pipeline, more = variant._replace(data=data).validate(Pipeline, source)
                problems += more if searched is not None or not problems else []
                if searched is not None and pipeline is not None:
                    problems += variant.problems(only_asked(searched, pipeline), source)
                if pipeline is None or problems:
                    wrong.append((variant, problems))
                    continue
                used |= {(one.open.place, one.number) for one in variant.choices}
                choices = (*chosen, *variant.choices)
                one = _Home(self.name, source, folder, self.near).write(pipeline, arm, choices)
                if searched is None:
                    made.append(one)
                else:
                    open_.append(self._open(one, arm, searched, source, folder))
                    made += open_[-1].voters.values()
        self._refuse(wrong, used)
        notes = dict.fromkeys(str(problem) for _, problems in wrong for problem in problems)
        return list({one.name: one for one in made}.values()), open_, [f"left out: {one}" for one in notes]

    def _searched(self, variant: Variant, arm: Arm, source: Document) -> tuple[OpenPipeline | None, list[Problem]]:
        resolve = partial(resolve_model, near=self.near)
        found, mistakes = read_search(variant.data, given=arm.roles, endpoints=self.endpoints, resolve=resolve)
        return found, variant.problems(mistakes, source)

    def _open(self, one: Candidate, given: Arm, searched: OpenPipeline, source: Document, folder: Path) -> OpenArm:
        open_ = OpenArm(one, given, searched, {}, _Home(self.name, source, folder, self.near))
        if searched.calls_as_alone(self.max_tokens):
            return open_
        voters = {}
        for model in searched.models:
            asked = open_.write(searched.alone(model))
            voters[model] = asked._replace(name=f"{short_name(model)} in {one.name}")
        return open_._replace(voters=voters)

    def _refuse(self, wrong: list[tuple[Variant, list[Problem]]], used: set[tuple[Any, ...]]) -> None:
        """Raise PipelineError for a value with no valid combination, and for a file with no valid variant."""
        alone = [
            problem
            for variant, problems in wrong
            if not variant.choices or any((one.open.place, one.number) not in used for one in variant.choices)
            for problem in problems
        ]
        if alone:
            raise PipelineError(sorted(set(alone)))


class _Home(NamedTuple):
    """The name of an arm, its pipeline's document, and the folders of its candidates and of the suite."""

    name: str
    source: Document
    folder: Path
    near: Path

    def write(self, pipeline: Pipeline, arm: Arm, choices: tuple[Choice, ...], *, used: bool = False) -> Candidate:
        """Write the file of a candidate, with its roles, beside the files that it reads.

        With `used`, only the roles that it asks are written.
        """
        data = pipeline.to_data()
        roles: dict[str, Any] = {name: resolve_model(model, self.near) for name, model in arm.roles.items()}
        for name in roles.keys() & pipeline.roles.keys():
            pinned = pipeline.roles[name].model_copy(update={"chain": (roles[name],)})
            roles[name] = pinned.model_dump(mode="json", exclude_defaults=True)
        roles = {**data.get("roles", {}), **roles}
        if used:
            asked = {role for stage in pipeline.stages.values() for _, role in stage.roles()}
            roles = {name: value for name, value in roles.items() if name in asked}
        text = Pipeline.from_data({**data, "roles": roles}).to_yaml()
        name = f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if choices or used else self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name.replace('/', '-')}.yaml"
        path.write_text(text, encoding="utf-8")
        _copy_read(Path(self.source.file).parent, self.source.data, self.folder)
        kept = arm.model_copy(update={"pipeline": str(path.resolve()), "roles": {}})
        return Candidate(name, kept, choices)


def _copy_read(home: Path, data: Any, folder: Path) -> None:
    """Copy the templates and other files that a pipeline reads."""
    prompts = home / "prompts"
    if prompts.is_dir():
        shutil.copytree(prompts, folder / "prompts", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    for value in _texts(data):
        if _is_beside(value) and (home / value).is_file():
            (folder / value).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(home / value, folder / value)


def _is_beside(value: str) -> bool:
    """True if a text may name a file below the pipeline's folder."""
    short = value.endswith(_NAMED_FILES) and len(value) < _MAX_NAME and "\n" not in value
    return short and ".." not in Path(value).parts and not Path(value).is_absolute()


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for one in data.values():
            yield from _texts(one)
    elif isinstance(data, list):
        for one in data:
            yield from _texts(one)
