"""Suite: the task sets, arms and settings of a benchmark, from YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError, model_validator

from fusion.bench.report.gate import Gate
from fusion.bench.report.statistics import MIN_RESAMPLES
from fusion.bench.tasks import Fields
from fusion.core.config import Tariff
from fusion.core.errors import PipelineError, Problem, UsageError
from fusion.core.paths import read_text
from fusion.core.types import Limits
from fusion.core.validation import Authored, Mistake, misread, mistakes
from fusion.core.yaml import MAX_BYTES, Place, Positions, read_yaml
from fusion.pipeline.json_schema import schema_of
from fusion.stages.text.tolerance import Tolerance

Baseline = Literal["singles", "self_consistency", "random_mixing", "oracle", "no_review"]
NO_REVIEW: Final = "no_review"
"""The baseline of each arm that reviews: the same pipeline without that review."""
_TEXT = "<text>"


AuthoredT = TypeVar("AuthoredT", bound=Authored)


class Document(NamedTuple):
    """The data of a YAML file, and the position of each value."""

    file: str
    data: Any
    positions: Positions

    def problem(self, place: Place, message: str, *, of_key: bool = False) -> Problem:
        """Return a mistake at a place, with its line and column."""
        mark = self.positions.key(place) if of_key else self.positions.at(place)
        return Problem(self.file, *mark, ".".join(map(str, place)), message)


def validate(model: type[AuthoredT], data: Mapping[str, Any]) -> tuple[AuthoredT | None, list[Mistake]]:
    """Return the value of the data, if valid, and every mistake in it."""
    try:
        value = model.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        return None, mistakes(error, data, lambda place: model.keys_within(data, place))
    return value, list(misread(data, value))


def _check_function(name: str) -> str:
    module, _, function = name.partition(":")
    if not module or not function.isidentifier():
        raise ValueError(f"invalid function {name!r}; write it as module:function")
    return name


def _check_gate(gate: str) -> str:
    try:
        Gate(gate)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return gate


class Scoring(Authored):
    """The scorer of a task set. Short form: its name alone."""

    by: str = Field(min_length=1, description="A scorer's name, judge, an expression, or module:function.")
    path: str | None = Field(default=None, description="The path of the answer in JSON.")
    pattern: str | None = Field(default=None, description="A regular expression; its first group is the answer.")
    tolerance: Tolerance | None = Field(
        default=None,
        description="Difference at which a number is still right: 0.5% of the gold answer, or an amount.",
    )
    model: str | None = Field(default=None, description="The judge of `by: judge`: a model of another family.")
    criteria: str | None = Field(default=None, description="The criteria of a good answer, for the judge.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"by": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _check_judge(self) -> "Scoring":
        if self.judged and self.model is None:
            raise ValueError("`by: judge` needs the judge's `model`, of another family than the contestants")
        if self.judged and (self.path is not None or self.pattern is not None):
            raise ValueError("`path` and `pattern` have no effect with `by: judge`, which reads the whole answer")
        if self.tolerance is not None and self.by != "number":
            raise ValueError("`tolerance` has an effect with `by: number` only")
        if not self.judged and (self.model is not None or self.criteria is not None):
            raise ValueError("`model` and `criteria` have an effect with `by: judge` only")
        return self

    @property
    def judged(self) -> bool:
        """True if a model scores the answers."""
        return self.by == "judge"


class Source(Fields, Authored):
    """A task set: a file, and the roles of its columns."""

    file: str = Field(min_length=1, description="A .csv, .jsonl or .json file, plain or packed, beside the suite.")
    sample: int | None = Field(default=None, ge=1, description="At most this many items, drawn by hash.")
    licence: str = Field(default="", description="The licence of the items.")
    label: str | None = Field(
        default=None, min_length=1, max_length=200, description="Label of its learned figures; by default its name."
    )
    item_scorer: Scoring | None = Field(
        default=None, description="The scorer of single items by `item_gold`; by default that of the answers."
    )

    @model_validator(mode="after")
    def _check_items(self) -> "Source":
        if self.item_scorer is not None and self.item_gold is None:
            raise ValueError("`item_scorer` has an effect with `item_gold` only")
        if self.item_scorer is not None and self.item_scorer.judged:
            raise ValueError("a judge scores whole answers only; give another `item_scorer`")
        return self


Scorings = Annotated[
    Annotated[Scoring, Tag("one")] | Annotated[dict[str, Scoring], Tag("sets"), Field(min_length=1)],
    Discriminator(lambda given: "sets" if isinstance(given, Mapping) and "by" not in given else "one"),
]


class Arm(Authored):
    """One contestant: exactly one of a pipeline, a model, a Python function and a file of answers."""

    pipeline: str | None = Field(default=None, description="A pipeline, by path or by shipped name.")
    model: str | None = Field(default=None, description="A single model, as provider/model.")
    python: Annotated[str, AfterValidator(_check_function)] | None = Field(
        default=None, description="A function of the prompt, as module:function."
    )
    outputs: str | None = Field(default=None, description="A JSONL file of answers: id, text, and cost if known.")
    profile: str | None = Field(default=None, description="The profile of a pipeline's roles.")
    roles: dict[str, str] = Field(default={}, description="Models for a pipeline's roles.")

    @model_validator(mode="after")
    def _check_kind(self) -> "Arm":
        kinds = [name for name in ("pipeline", "model", "python", "outputs") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"an arm is one of pipeline, model, python and outputs; it has {' and '.join(kinds) or 'none'}"
            )
        if kinds != ["pipeline"] and (self.profile is not None or self.roles):
            raise ValueError("`profile` and `roles` have an effect with a pipeline only")
        return self


class Splitting(Authored):
    """The split of the items into dev and test: by a hash of their ids, or by a column."""

    dev: float = Field(default=0.5, gt=0, lt=1, description="The share of items on the dev side.")
    seed: int = Field(default=0, ge=0, description="The seed of the split, and of samples.")
    column: str | None = Field(
        default=None,
        min_length=1,
        description="The column with the side of each item, dev or test; replaces the hash.",
    )

    @model_validator(mode="after")
    def _check_column(self) -> "Splitting":
        if self.column is not None and "dev" in self.model_fields_set:
            raise ValueError("`dev` has no effect with `column`, which gives the side of each item; leave one out")
        return self


Confirming = Annotated[
    Annotated[str, Tag("file"), Field(min_length=1)] | Annotated[dict[str, str], Tag("sets"), Field(min_length=1)],
    Discriminator(lambda given: "sets" if isinstance(given, Mapping) else "file"),
]


class Suite(Authored):
    """Task sets, their scorers, and the arms to compare."""

    name: str = Field(default="suite", min_length=1, max_length=200, description="By default the file's name.")
    description: str = Field(default="", description="A description for readers.")
    tasks: dict[str, Source] = Field(min_length=1, description="The task sets, by name.")
    scorer: Scorings = Field(description="The scorer of all answers, or one for each task set.")
    arms: dict[str, Arm] = Field(min_length=1, description="The contestants, by name.")
    baselines: tuple[Baseline, ...] = Field(
        default=("singles", "self_consistency", "random_mixing", "oracle", "no_review"),
        description="The baselines of the report; it names those left out.",
    )
    on: Literal["dev", "test", "all"] = Field(default="test", description="The side of the split to measure.")
    split: Splitting = Field(default=Splitting(), description="The split into dev and test.")
    confirm: Confirming | None = Field(
        default=None,
        description="A file of the items of the test side, or one for each task set; all others are then dev.",
    )
    epochs: int = Field(default=1, ge=1, le=100, description="The number of times to ask each item.")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="Seeds of order and resampling.")
    resamples: int = Field(
        default=10_000, ge=MIN_RESAMPLES, le=1_000_000, description="The number of bootstrap draws."
    )
    margin: float = Field(
        default=0.01, ge=0, lt=1, description="The largest loss of accuracy that counts as not worse, a share."
    )
    max_tokens: int = Field(
        default=5000,
        ge=1,
        description="Output limit of an answer of every arm, thinking and continuations included.",
    )
    prices: dict[str, Tariff] = Field(
        default={}, description="Simulated prices by model, in dollars for a million tokens; the report labels them."
    )
    budget: Limits = Field(default=Limits(), description="The limits of the whole benchmark.")
    gate: Annotated[str, AfterValidator(_check_gate)] | None = Field(
        default=None, description="The condition to meet, as in accuracy >= best_single - 0.5pp."
    )

    @model_validator(mode="after")
    def _check_scorers(self) -> "Suite":
        if isinstance(self.scorer, dict):
            for name in self.tasks:
                if name not in self.scorer:
                    raise ValueError(f"no scorer for the task set {name!r}")
            for name in self.scorer:
                if name not in self.tasks:
                    raise ValueError(f"a scorer for {name!r}, which is not a task set")
        for name, source in self.tasks.items():
            if source.item_gold is not None and source.item_scorer is None and self.scoring(name).judged:
                raise ValueError(f"a judge scores whole answers only; give the task set {name!r} an `item_scorer`")
        return self

    @model_validator(mode="after")
    def _check_confirming(self) -> "Suite":
        if isinstance(self.confirm, str) and len(self.tasks) > 1:
            raise ValueError("`confirm` is one file, and there are several task sets; write {set: file}")
        named = self.confirm if isinstance(self.confirm, dict) else {}
        for name in named:
            if name not in self.tasks:
                raise ValueError(f"`confirm` has a file for {name!r}, which is not a task set")
        chosen = {"dev", "column"} & self.split.model_fields_set
        if chosen and self.confirm is not None and (not named or len(named) == len(self.tasks)):
            raise ValueError(f"`split.{min(chosen)}` has no effect with `confirm`: its items are the test side")
        return self

    def confirming(self, task_set: str) -> str | None:
        """Return the file whose items are the test side of a task set; None if its items are split."""
        return self.confirm.get(task_set) if isinstance(self.confirm, dict) else self.confirm

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the learned figures, by task set."""
        return {name: source.label or name for name, source in self.tasks.items()}

    def scoring(self, task_set: str) -> Scoring:
        """Return the scoring of a task set."""
        return self.scorer[task_set] if isinstance(self.scorer, dict) else self.scorer

    @classmethod
    def from_yaml(cls, text: str, *, file: str = _TEXT) -> "Suite":
        """Read a suite from YAML. Raises PipelineError with every mistake and its position."""
        data, problems, positions = read_yaml(text, file=file)
        document = Document(file, data, positions)
        if data is None and problems:
            raise PipelineError(problems)
        if not isinstance(data, dict):
            message = "expected a mapping with the keys `tasks`, `scorer` and `arms`"
            raise PipelineError([*problems, document.problem((), message)])
        if file != _TEXT:
            data.setdefault("name", Path(file).stem)
        suite, found = validate(cls, data)
        problems += [document.problem(one.place, one.message, of_key=one.of_key) for one in found]
        if problems or suite is None:
            raise PipelineError(problems)
        return suite

    @classmethod
    def load(cls, path: Path | str) -> "Suite":
        """Read a suite file. Raises UsageError if it cannot be read, PipelineError as `from_yaml` does."""
        return cls.from_yaml(read_text(Path(path), most=MAX_BYTES), file=str(path))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of suite files, for editors."""
    schema = schema_of(Suite)
    definitions = schema["$defs"]
    definitions["Limits"]["properties"]["usd"]["anyOf"][0] = {"type": "number", "exclusiveMinimum": 0}
    short = {"type": "string", "description": "A scorer's name, an expression or module:function."}
    definitions["Scoring"] = {"anyOf": [short, definitions["Scoring"]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Fusion suite"}
