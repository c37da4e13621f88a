"""Candidates: every way to fill in what a suite's arms and their pipelines leave open, each as a file that runs."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusion.bench.suite import Arm, Suite
from fusion.bench.tuner.search_space import Choice, Open, Source, Variant, left_open, size, variants
from fusion.core.errors import PipelineError, Problem, UsageError
from fusion.core.paths import read_text
from fusion.core.yaml import MAX_BYTES, read_yaml
from fusion.models.providers.replay import PREFIX
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library

MOST: Final = 1000
_LONGEST: Final = 200
_NAMED_FILES: Final = (".yaml", ".yml", ".json", ".j2")


class Candidate(NamedTuple):
    """One way to fill in an arm: the arm of a closed suite, and what was chosen."""

    name: str
    arm: Arm
    choices: tuple[Choice, ...]


class Candidates(NamedTuple):
    """The suite with every candidate as an arm, and what did not go together."""

    suite: Suite
    made: Mapping[str, Candidate]
    left_out: tuple[str, ...]


def candidates(file: Path, folder: Path, library: Library) -> Candidates:
    """Every candidate of a suite's file, written to a folder.

    Raises PipelineError with every mistake in the suite and its pipelines, UsageError where nothing is left open, or
    too much.
    """
    source = _source(file)
    arms = source.data.get("arms")
    if not isinstance(arms, Mapping) or not arms:
        raise PipelineError([source.problem(("arms",), "expected the arms to tune, by name")])
    made: list[Candidate] = []
    left_out: list[str] = []
    found = {name: _fillings(name, source, library) for name in arms}
    number = sum(one.size for one in found.values())
    if not any(one.places for one in found.values()):
        raise UsageError(f"{file}: nothing is left open; write {{any: [a, b]}} in place of a value to be chosen")
    if number > MOST:
        raise UsageError(f"{file}: {number:,} candidates; the most is {MOST:,}: leave less open")
    for one in found.values():
        own, words = one.candidates(folder)
        made += own
        left_out += words
    whole = Variant(
        {**source.data, "arms": {one.name: one.arm.model_dump(exclude_defaults=True) for one in made}}, ()
    )
    whole.data.setdefault("name", file.stem)
    suite, problems = whole.checked(Suite, source)
    if problems or suite is None:
        raise PipelineError(problems)
    return Candidates(suite, {one.name: one for one in made}, tuple(left_out))


def _source(file: Path) -> Source:
    data, problems, positions = read_yaml(read_text(file, most=MAX_BYTES), file=str(file))
    source = Source(str(file), data, positions)
    if not problems and not isinstance(data, dict):
        problems = [source.problem((), "expected a mapping")]
    if problems:
        raise PipelineError(problems)
    return source


def _fillings(name: str, suite: Source, library: Library) -> "_Fillings":
    """What an arm leaves open, and the pipelines that it may be."""
    at = ("arms", name)
    places, problems = left_open(suite, at=at)
    if problems:
        raise PipelineError(problems)
    pipelines: dict[str, tuple[Source, list[Open]]] = {}
    closed = []
    for variant in variants(suite.data["arms"][name], places, at=at):
        arm, problems = variant.checked(Arm, suite, at=at)
        if problems or arm is None:
            raise PipelineError(problems)
        if arm.pipeline is not None and arm.pipeline not in pipelines:
            beside = Path(suite.file).parent / arm.pipeline
            source = _source(beside if beside.is_file() else library.pipeline(arm.pipeline))
            own, problems = left_open(source)
            if problems:
                raise PipelineError(problems)
            pipelines[arm.pipeline] = source, own
        closed.append((arm, variant.choices))
    return _Fillings(name, Path(suite.file).parent, closed, pipelines, places)


class _Fillings:
    """All ways to fill in one arm."""

    def __init__(
        self,
        name: str,
        near: Path,
        arms: list[tuple[Arm, tuple[Choice, ...]]],
        pipelines: Mapping[str, tuple[Source, list[Open]]],
        places: list[Open],
    ) -> None:
        self._name = name
        self._near = near
        self._arms = arms
        self._pipelines = pipelines
        self.places = [*places, *(place for _, own in pipelines.values() for place in own)]
        self.size = sum(size(pipelines[arm.pipeline][1]) if arm.pipeline else 1 for arm, _ in arms)

    def candidates(self, folder: Path) -> tuple[list[Candidate], list[str]]:
        """The candidates, their files written, and what did not go together."""
        made: list[Candidate] = []
        wrong: list[tuple[Variant, list[Problem]]] = []
        used: set[tuple[Any, ...]] = set()
        for arm, chosen in self._arms:
            if arm.pipeline is None:
                name = self._name if not chosen else f"{self._name} ({', '.join(map(str, chosen))})"
                made.append(Candidate(name, arm, chosen))
                continue
            source, places = self._pipelines[arm.pipeline]
            for variant in variants(source.data, places):
                pipeline, problems = variant.checked(Pipeline, source)
                if pipeline is None or problems:
                    wrong.append((variant, problems))
                    continue
                used |= {(one.open.place, one.number) for one in variant.choices}
                made.append(self._written(pipeline, arm, (*chosen, *variant.choices), source, folder))
        self._refuse(wrong, used)
        words = dict.fromkeys(str(problem) for _, problems in wrong for problem in problems)
        return list({one.name: one for one in made}.values()), [f"left out: {one}" for one in words]

    def _refuse(self, wrong: list[tuple[Variant, list[Problem]]], used: set[tuple[Any, ...]]) -> None:
        """A value that goes with nothing is a mistake, and so is a file of which nothing can be made."""
        alone = [
            problem
            for variant, problems in wrong
            if not variant.choices or any((one.open.place, one.number) not in used for one in variant.choices)
            for problem in problems
        ]
        if alone:
            raise PipelineError(sorted(set(alone)))

    def _written(
        self, pipeline: Pipeline, arm: Arm, choices: tuple[Choice, ...], source: Source, folder: Path
    ) -> Candidate:
        """The candidate with its own file, its roles within it, beside what the file reads."""
        roles = {name: self._beside(model) for name, model in arm.roles.items()}
        pinned = {
            name: pipeline.roles[name].model_copy(update={"chain": (model,)}) if name in pipeline.roles else model
            for name, model in roles.items()
        }
        whole = Pipeline.from_data(
            {**pipeline.to_data(), "roles": {**pipeline.to_data().get("roles", {}), **_data(pinned)}}
        )
        text = whole.to_yaml()
        name = f"{self._name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if choices else self._name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name.replace('/', '-')}.yaml"
        path.write_text(text, encoding="utf-8")
        _copy_read(Path(source.file).parent, source.data, folder)
        kept = arm.model_copy(update={"pipeline": str(path.resolve()), "roles": {}})
        return Candidate(name, kept, choices)

    def _beside(self, model: str) -> str:
        place, sign, name = model.removeprefix(PREFIX).rpartition("#")
        if model.startswith(PREFIX) and sign and (self._near / place).exists():
            return f"{PREFIX}{self._near / place}#{name}"
        return model


def _data(roles: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: one if isinstance(one, str) else one.model_dump(mode="json", exclude_defaults=True)
        for name, one in roles.items()
    }


def _copy_read(home: Path, data: Any, folder: Path) -> None:
    """Copy what a pipeline reads beside itself: its templates, and the files that its values name."""
    prompts = home / "prompts"
    if prompts.is_dir():
        shutil.copytree(prompts, folder / "prompts", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    for value in _texts(data):
        if _is_beside(value) and (home / value).is_file():
            (folder / value).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(home / value, folder / value)


def _is_beside(value: str) -> bool:
    """True for text that may name a file below a pipeline's own folder."""
    short = value.endswith(_NAMED_FILES) and len(value) < _LONGEST and "\n" not in value
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
