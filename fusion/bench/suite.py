"""Suite: what a benchmark measures, fixed before it runs, from YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError, model_validator

from fusion.bench.report.gate import Gate
from fusion.bench.report.statistics import MIN_RESAMPLES
from fusion.bench.tasks import Fields
from fusion.core.config import Tariff
from fusion.core.errors import PipelineError, Problem, UsageError
from fusion.core.paths import read_text
from fusion.core.types import Limits
from fusion.core.validation import Authored, Mistake, misread, mistakes
from fusion.core.yaml import MAX_BYTES, Positions, read_yaml
from fusion.pipeline.json_schema import schema_of

Baseline = Literal["singles", "self_consistency", "random_mixing", "oracle"]
_TEXT = "<text>"


def _pair(name: str) -> str:
    module, _, function = name.partition(":")
    if not module or not function.isidentifier():
        raise ValueError(f"{name!r} is no function; write it as module:function")
    return name


def _readable(gate: str) -> str:
    try:
        Gate(gate)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return gate


class Source(Fields, Authored):
    """A task set: a file beside the suite, and what its columns hold."""

    file: str = Field(min_length=1, description="A .csv, .jsonl or .json file, plain or packed, beside the suite.")
    sample: int | None = Field(default=None, ge=1, description="At most so many items, drawn by hash.")
    licence: str = Field(default="", description="The licence of the items.")


class Scoring(Authored):
    """How an answer is scored. Short form: the scorer alone."""

    by: str = Field(min_length=1, description="A scorer's name, judge, an expression, or m:f.")
    path: str | None = Field(default=None, description="Where the answer stands in JSON.")
    pattern: str | None = Field(default=None, description="A regular expression whose first group is the answer.")
    model: str | None = Field(default=None, description="The judge of `by: judge`: a model of another family.")
    criteria: str | None = Field(default=None, description="What makes an answer good, for the judge.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"by": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _judge_is_whole(self) -> "Scoring":
        if self.judged and self.model is None:
            raise ValueError("`by: judge` needs the judge's `model`, of another family than the contestants")
        if self.judged and (self.path is not None or self.pattern is not None):
            raise ValueError("`path` and `pattern` have no effect with `by: judge`, which reads the whole answer")
        if not self.judged and (self.model is not None or self.criteria is not None):
            raise ValueError("`model` and `criteria` have an effect with `by: judge` only")
        return self

    @property
    def judged(self) -> bool:
        """True where a model scores."""
        return self.by == "judge"


Scorings = Annotated[
    Annotated[Scoring, Tag("one")] | Annotated[dict[str, Scoring], Tag("sets"), Field(min_length=1)],
    Discriminator(lambda given: "sets" if isinstance(given, Mapping) and "by" not in given else "one"),
]


class Arm(Authored):
    """One contestant: exactly one of a pipeline, a model, a Python function and a file of somebody's answers."""

    pipeline: str | None = Field(default=None, description="A pipeline, by path or by shipped name.")
    model: str | None = Field(default=None, description="A single model, as provider/model.")
    python: Annotated[str, AfterValidator(_pair)] | None = Field(
        default=None, description="A function of the prompt, as module:function."
    )
    outputs: str | None = Field(default=None, description="A JSONL file of answers: id, text, and cost if known.")
    profile: str | None = Field(default=None, description="The profile that a pipeline's roles are of.")
    roles: dict[str, str] = Field(default={}, description="Models for a pipeline's roles.")

    @model_validator(mode="after")
    def _is_one_thing(self) -> "Arm":
        kinds = [name for name in ("pipeline", "model", "python", "outputs") if getattr(self, name) is not None]
        if len(kinds) != 1:
            said = f"it has {' and '.join(kinds)}" if kinds else "it has none"
            raise ValueError(f"an arm is one of pipeline, model, python and outputs; {said}")
        if kinds != ["pipeline"] and (self.profile is not None or self.roles):
            raise ValueError("`profile` and `roles` have an effect with a pipeline only")
        return self


class Splitting(Authored):
    """Which items are for choosing and which for confirming, by a hash of their ids."""

    dev: float = Field(default=0.5, gt=0, lt=1, description="The share of items that are for choosing.")
    seed: int = Field(default=0, ge=0, description="Another seed is another split.")


class Suite(Authored):
    """Task sets, how they are scored, and the arms that are compared on them."""

    name: str = Field(default="suite", min_length=1, max_length=200, description="By default the file's own name.")
    description: str = Field(default="", description="What is measured, for people.")
    tasks: dict[str, Source] = Field(min_length=1, description="The task sets, by name.")
    scorer: Scorings = Field(description="How answers are scored: in one way, or by task set.")
    arms: dict[str, Arm] = Field(min_length=1, description="The contestants, by name.")
    baselines: tuple[Baseline, ...] = Field(
        default=("singles", "self_consistency", "random_mixing", "oracle"),
        description="What the arms are held against; leaving one out is said in the report.",
    )
    on: Literal["dev", "test", "all"] = Field(default="test", description="The side of the split that is measured.")
    split: Splitting = Field(default=Splitting(), description="How dev and test are parted.")
    epochs: int = Field(default=1, ge=1, le=100, description="How often each item is asked.")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="Seeds of order and resampling.")
    resamples: int = Field(default=10_000, ge=MIN_RESAMPLES, le=1_000_000, description="Draws of the bootstrap.")
    margin: float = Field(default=0.01, ge=0, lt=1, description="How much worse still counts as not worse, a share.")
    max_tokens: int = Field(default=5000, ge=1, description="Output limit of a single model, thinking included.")
    prices: dict[str, Tariff] = Field(
        default={}, description="Prices that are simulated, by model, in dollars for a million tokens; labelled so."
    )
    budget: Limits = Field(default=Limits(), description="What the whole benchmark may spend at most.")
    gate: Annotated[str, AfterValidator(_readable)] | None = Field(
        default=None, description="What has to hold, as in accuracy >= best_single - 0.5pp."
    )

    @model_validator(mode="after")
    def _every_set_is_scored(self) -> "Suite":
        if isinstance(self.scorer, dict):
            for name in self.tasks:
                if name not in self.scorer:
                    raise ValueError(f"no scorer for the task set {name!r}")
            for name in self.scorer:
                if name not in self.tasks:
                    raise ValueError(f"a scorer for {name!r}, which is no task set")
        return self

    def scoring(self, task_set: str) -> Scoring:
        """How the answers of a task set are scored."""
        return self.scorer[task_set] if isinstance(self.scorer, dict) else self.scorer

    @classmethod
    def from_yaml(cls, text: str, *, file: str = _TEXT) -> "Suite":
        """The suite of a YAML text. Raises PipelineError with every mistake of its form, each at its place."""
        suite, problems = _read(text, file)
        if problems or suite is None:
            raise PipelineError(problems)
        return suite

    @classmethod
    def load(cls, path: Path | str) -> "Suite":
        """The suite of a file. Raises UsageError if it cannot be read, PipelineError as `from_yaml` does."""
        return cls.from_yaml(read_text(Path(path), most=MAX_BYTES), file=str(path))


class _Read(NamedTuple):
    suite: Suite | None
    problems: list[Problem]


def _read(text: str, file: str) -> _Read:
    data, problems, positions = read_yaml(text, file=file)
    if data is None and problems:
        return _Read(None, problems)
    if not isinstance(data, dict):
        line, column = positions.at(())
        message = "expected a mapping with the keys `tasks`, `scorer` and `arms`"
        return _Read(None, [*problems, Problem(file, line, column, "", message)])
    if file != _TEXT:
        data.setdefault("name", Path(file).stem)
    suite: Suite | None = None
    try:
        suite = Suite.model_validate(data)
        found = list(misread(data, suite))
    except ValidationError as error:
        found = mistakes(error, data, lambda place: Suite.keys_within(data, place))
    return _Read(suite, [*problems, *(_problem(mistake, file, positions) for mistake in found)])


def _problem(mistake: Mistake, file: str, positions: Positions) -> Problem:
    mark = positions.key(mistake.place) if mistake.of_key else positions.at(mistake.place)
    return Problem(file, *mark, ".".join(str(part) for part in mistake.place), mistake.message)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of suite files, for editors."""
    schema = schema_of(Suite)
    definitions = schema["$defs"]
    definitions["Limits"]["properties"]["usd"]["anyOf"][0] = {"type": "number", "exclusiveMinimum": 0}
    short = {"type": "string", "description": "A scorer's name, an expression or module:function."}
    definitions["Scoring"] = {"anyOf": [short, definitions["Scoring"]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Fusion suite"}
