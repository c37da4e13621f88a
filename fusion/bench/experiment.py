"""Experiment: a suite with its items, scorers and contestants, checked before the first call."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fusion.bench.arms.base import Contestant
from fusion.bench.arms.factory import ArmFactory
from fusion.bench.arms.pipeline import PipelineArm
from fusion.bench.judge import Judge, check_families, make_judge
from fusion.bench.report.gate import BEST_SINGLE, Gate
from fusion.bench.report.results import ItemRecord
from fusion.bench.scorers.base import Answer, Scorer
from fusion.bench.scorers.items import ItemScorer
from fusion.bench.scorers.registry import NAMES, scorer
from fusion.bench.suite import NO_REVIEW, Scoring, Suite
from fusion.bench.tasks import Task, TaskSet, read_tasks, split_of
from fusion.client.client import Fusion
from fusion.core.budget import Budget
from fusion.core.config import SandboxTable
from fusion.core.errors import UsageError
from fusion.core.types import as_text
from fusion.models.base import ModelInfo


class Question(NamedTuple):
    """One item: its task, without the gold answer, and its record for the report."""

    task: Task
    record: ItemRecord


@dataclass
class Experiment:
    """A suite ready to run.

    `gold` and `gold_items`, the right values of the items within an answer, are by item of the suite; `scorers`,
    `item_scorers` and `judges` are by task set.
    """

    suite: Suite
    questions: tuple[Question, ...]
    gold: Mapping[str, Any] = field(repr=False)
    gold_items: Mapping[str, list[Any]] = field(repr=False)
    scorers: Mapping[str, Scorer]
    item_scorers: Mapping[str, Scorer]
    judges: Mapping[str, Judge]
    contestants: list[Contestant]
    factory: ArmFactory
    within: Budget
    hashes: dict[str, str]
    licences: dict[str, str]
    notes: list[str]

    @property
    def models(self) -> dict[str, ModelInfo]:
        """All models that the contestants may call."""
        return _models(self.contestants)

    def item_scorer(self, record: ItemRecord) -> ItemScorer:
        """Return the scorer of the items within the answers to an item of the suite."""
        return ItemScorer(
            self.item_scorers.get(record.task_set),
            self.scorers.get(record.task_set),
            gold=self.gold[record.id],
            golds=self.gold_items.get(record.id),
        )

    def close(self) -> None:
        for one in {*self.scorers.values(), *self.item_scorers.values()}:
            one.close()


def prepare(suite: Suite, near: Path, fusion: Fusion, within: Budget, *, batch: bool = False) -> Experiment:
    """Read the files of a suite and check them. Raises UsageError for every mistake that needs no call to find."""
    sets = {name: _task_set(name, suite, near) for name in suite.tasks}
    questions = tuple(_questions(sets, suite))
    if not questions:
        raise UsageError(f"no item of {suite.name!r} is on the side {suite.on!r} of the split; set `on: all`")
    gold = {_qualified(sets, name, item): one.gold[item] for name, one in sets.items() for item in one.gold}
    sandbox = fusion.settings.sandbox
    scorers = {name: _scorer(name, suite.scoring(name), sandbox) for name in sets if not suite.scoring(name).judged}
    for name, one in scorers.items():
        golds = [gold[question.task.id] for question in questions if question.record.task_set == name]
        _check_scorer(name, suite.scoring(name), one, golds)
    gold_items = {_qualified(sets, name, item): one.items[item] for name, one in sets.items() for item in one.items}
    item_scorers = dict(_item_scorers(suite, scorers, sandbox))
    for name, one in item_scorers.items():
        golds = [gold for item in sets[name].items.values() for gold in item if gold is not None]
        _check_scorer(name, suite.tasks[name].item_scorer or suite.scoring(name), one, golds)
    examples = list({one.record.task_set: one.task for one in reversed(questions)}.values())
    factory = ArmFactory(
        suite, near, fusion, within, examples, frozenset(one.task.id for one in questions), batch=batch
    )
    contestants = [factory.contestant(name, arm) for name, arm in suite.arms.items()]
    if "singles" in suite.baselines:
        contestants += factory.singles(contestants)
    if suite.gate is not None:
        singles = [BEST_SINGLE] if any(one.record.kind == "model" for one in contestants) else []
        Gate(suite.gate).check([*(one.record.name for one in contestants), *singles])
    judges = {name: make_judge(factory, name, suite.scoring(name)) for name in sets if name not in scorers}
    return Experiment(
        suite=suite,
        questions=questions,
        gold=gold,
        gold_items=gold_items,
        scorers=scorers,
        item_scorers=item_scorers,
        judges=judges,
        contestants=contestants,
        factory=factory,
        within=within,
        hashes={f"the task set {name}": one.sha256 for name, one in sets.items()},
        licences={name: source.licence for name, source in suite.tasks.items() if source.licence},
        notes=[
            *_family_notes(judges, contestants),
            *_baseline_notes(suite, reviewed=bool(factory.reviewing(contestants))),
        ],
    )


def _task_set(name: str, suite: Suite, near: Path) -> TaskSet:
    source = suite.tasks[name]
    whole = read_tasks(near / source.file, source, name=name, side=suite.split.column)
    confirming = suite.confirming(name)
    if confirming is not None:
        whole = whole.with_test_items(read_tasks(near / confirming, source, name=name), file=confirming)
    side = whole.only(suite.on, dev_share=suite.split.dev, seed=suite.split.seed)
    return side if source.sample is None else side.sample(source.sample, seed=suite.split.seed)


def _questions(sets: Mapping[str, TaskSet], suite: Suite) -> Iterator[Question]:
    for name, one in sets.items():
        for task in one.tasks:
            side = split_of(task, dev_share=suite.split.dev, seed=suite.split.seed)
            item = _qualified(sets, name, task.id)
            cluster = None if task.cluster is None else _qualified(sets, name, task.cluster)
            yield Question(
                task.model_copy(update={"id": item}),
                ItemRecord(id=item, task_set=name, cluster=cluster, side=side, prompt=task.prompt),
            )


def _qualified(sets: Mapping[str, TaskSet], task_set: str, name: str) -> str:
    """Return a name that is unique over all task sets."""
    return name if len(sets) == 1 else f"{task_set}/{name}"


def _scorer(name: str, scoring: Scoring, sandbox: SandboxTable) -> Scorer:
    try:
        return scorer(
            scoring.by,
            path=scoring.path,
            pattern=scoring.pattern,
            tolerance=scoring.tolerance,
            sandbox=sandbox,
        )
    except UsageError as error:
        raise UsageError(f"the task set {name!r}: {error}") from error


def _item_scorers(suite: Suite, scorers: Mapping[str, Scorer], sandbox: SandboxTable) -> Iterator[tuple[str, Scorer]]:
    """Yield the scorer of items for each task set with gold items."""
    for name, source in suite.tasks.items():
        if source.item_gold is not None:
            yield name, scorers[name] if source.item_scorer is None else _scorer(name, source.item_scorer, sandbox)


def _check_scorer(name: str, scoring: Scoring, tested: Scorer, golds: list[Any]) -> None:
    """Score a dummy answer, so that a broken scorer or gold answer fails before any call."""
    built_in = scoring.by in NAMES
    for gold in golds if built_in else golds[:1]:
        try:
            tested.score(Answer(text="" if built_in else as_text(gold)), gold)
        except UsageError as error:
            raise UsageError(f"the task set {name!r}, before any call: {error}") from error


def _models(contestants: Iterable[Contestant]) -> dict[str, ModelInfo]:
    arms = [one for one in contestants if isinstance(one, PipelineArm)]
    return {name: info for one in arms for name, info in one.models.items()}


def _family_notes(judges: Mapping[str, Judge], contestants: Iterable[Contestant]) -> Iterator[str]:
    """Check every judge against the families of all contestants."""
    arms = list(contestants)
    families = {model: info.family for model, info in _models(arms).items()}
    families |= {one.record.name: None for one in arms if not isinstance(one, PipelineArm)}
    for name, judge in judges.items():
        yield from check_families(f"the judge of {name}", judge.contestant.models.values(), families)


def _baseline_notes(suite: Suite, *, reviewed: bool) -> Iterator[str]:
    known = [name for name in Suite.model_fields["baselines"].default if reviewed or name != NO_REVIEW]
    dropped = [name for name in known if name not in suite.baselines]
    if dropped:
        yield f"The suite leaves out baselines: {', '.join(dropped)}."
