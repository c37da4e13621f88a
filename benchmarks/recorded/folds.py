"""Ten folds: `fusion tune` chooses on nine, and the choice answers the tenth through the engine."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from fusion import Fusion
from fusion.bench.arms.base import Contestant
from fusion.bench.arms.pipeline import PipelineArm
from fusion.bench.benchmark import CONCURRENCY, client_for
from fusion.bench.checkpoint import CANDIDATES, open_checkpoint
from fusion.bench.experiment import Question, prepare
from fusion.bench.ledger import budget_of
from fusion.bench.report.results import ArmRecord, Outcome, Spending
from fusion.bench.runner import Runner
from fusion.bench.scorers.base import Answer
from fusion.bench.tasks import Task, folds
from fusion.bench.tuner.candidates import OpenArm, candidates, read_document
from fusion.bench.tuner.judging import Judge
from fusion.bench.tuner.racing import Race
from fusion.prompts.library import Library

K = 10
TUNE = "tune"
"""The first word of the arms that are chosen out of fold."""


class Chosen(NamedTuple):
    """The result of a seed: its outcomes, and by route how many folds chose each way."""

    outcomes: list[Outcome]
    ways: dict[str, dict[str, int]]


class OutOfFold:
    """A suite for `fusion tune` with one open arm: every item is answered by a choice made without it."""

    def __init__(self, file: Path, out: Path) -> None:
        self._open = ExitStack()
        self._fusion = self._open.enter_context(Fusion(profile="local"))
        near, folder = file.parent, out / "folds"
        checkpoint = self._open.enter_context(open_checkpoint(folder))
        self._client = self._open.enter_context(client_for(None, folder, None))
        found = candidates(read_document(file), near, folder / CANDIDATES, Library.standard(near=near))
        (self._arm,) = found.open
        suite = found.suite.model_copy(update={"on": "all", "baselines": ("singles",), "gate": None})
        prepared = prepare(suite, near, self._client, budget_of(suite.budget))
        self._experiment = self._open.enter_context(closing(prepared))
        self._asked = _asked(self._arm, self._experiment.contestants)
        self._runner = Runner(self._experiment, checkpoint, concurrency=CONCURRENCY, watch=None)
        contestants = self._experiment.contestants
        self._race = Race(self._runner, contestants, items=len(self._experiment.questions), seed=0)
        self._questions = self._race.alone()
        self._done: dict[tuple[str, str], Outcome] = {}

    def close(self) -> None:
        self._open.close()

    def seed(self, seed: int) -> Chosen:
        """Answer every item by the choice of the other nine folds."""
        tasks = [Task(id=one.record.id, prompt="-", cluster=one.record.cluster) for one in self._questions]
        fold = folds(tasks, K, seed=seed)
        outcomes: dict[str, Outcome] = {}
        counts: dict[str, dict[str, int]] = {}
        for held in range(K):
            file, ways = self._chosen([one for one in self._questions if fold[one.record.id] != held])
            for route, way in ways.items():
                counts.setdefault(route, {}).setdefault(way, 0)
                counts[route][way] += 1
            for question in (one for one in self._questions if fold[one.record.id] == held):
                outcomes[question.record.id] = self._answered(question, file)
        name = arm_name(seed)
        kept = [outcomes[one.record.id] for one in self._questions]
        return Chosen([one.model_copy(update={"arm": name, "seed": seed}) for one in kept], counts)

    def _chosen(self, questions: Sequence[Question]) -> tuple[str, dict[str, str]]:
        """Return the file that `fusion tune` makes of these items, and its way on each route."""
        best = self._race.best_single(questions)
        assert best is not None
        judge = Judge(self._experiment, self._runner, questions, self._client)
        found = judge.found(self._arm, self._asked, at_least=0.0, best=best)
        file = found.open.write(found.data()).arm.pipeline
        assert file is not None
        return file, {route: str(way) for route, way in found.searched("chosen").ways.items()}

    def _answered(self, question: Question, file: str) -> Outcome:
        """Return the engine's answer to an item, scored."""
        if (question.record.id, file) not in self._done:
            self._done[question.record.id, file] = self._through(question, file)
        return self._done[question.record.id, file]

    def _through(self, question: Question, file: str) -> Outcome:
        result = self._fusion.complete(question.task.prompt, pipeline=file)
        given = Answer(text=result.text, data=result.data)
        score = self._experiment.scorers[question.record.task_set].score(
            given, self._experiment.gold[question.record.id]
        )
        spent = tuple(
            Spending(model=line.model, calls=line.calls, usage=line.usage, cost=line.cost.usd)
            for line in result.receipt.lines
        )
        return Outcome(
            arm="-",
            item=question.record.id,
            score=score.value,
            answer=score.answer,
            text=result.text,
            cost=sum((one.cost or Decimal(0) for one in spent), Decimal(0)),
            usage=result.usage,
            calls=result.receipt.calls,
            escalated=result.receipt.escalated > 0,
            spent=spent,
        )


def _asked(arm: OpenArm, contestants: list[Contestant]) -> PipelineArm:
    """Take the arm that names all models out of the contestants: it is never asked."""
    (found,) = [one for one in contestants if one.record.name == arm.whole.name]
    contestants.remove(found)
    assert isinstance(found, PipelineArm)
    return found


def arm_name(seed: int) -> str:
    return f"{TUNE}, out of fold, seed {seed}"


def arm_record(chosen: Chosen, seed: int) -> ArmRecord:
    models = dict.fromkeys(one.model for outcome in chosen.outcomes for one in outcome.spent)
    return ArmRecord(name=arm_name(seed), kind="pipeline", models=tuple(models), price_source="prices.json")
