"""Runner: asks every arm every item, in random order and concurrently, and checkpoints each answer."""

import queue
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from itertools import product
from typing import Final, NamedTuple

from fusion.bench.arms.base import ArmResponse, Completion, Contestant, OutOfBudgetError, Trial, digest_of
from fusion.bench.checkpoint import Checkpoint, Line
from fusion.bench.experiment import Experiment, Question
from fusion.bench.judge import AGREEMENT, Judge, judgement_note
from fusion.bench.ledger import Ledger
from fusion.bench.progress import ArmProgress, Progress
from fusion.bench.scorers.base import Answer, Score
from fusion.core.errors import FusionError, UsageError

_SEED_STEP: Final = 1000
"""Added to the seeds of further epochs, where there are more epochs than seeds."""
_TICK: Final = 0.25
_GRACE: Final = 5.0
"""Seconds to wait for stopped jobs; a function of the user's own may never end."""

Name = tuple[str, str, int]
"""The names of an arm and an item, and an epoch."""
Watch = Callable[[Progress], None]


class Job(NamedTuple):
    """One arm, one item, one epoch. `key` is the same in every start of a benchmark."""

    contestant: Contestant
    question: Question
    epoch: int
    seed: int

    @property
    def key(self) -> str:
        task = self.question.task
        return digest_of(self.contestant.digest, task.prompt, task.inputs, self.epoch, self.seed)

    @property
    def name(self) -> Name:
        return self.contestant.record.name, self.question.task.id, self.epoch

    @property
    def unreserved(self) -> bool:
        """True if no budget reserves its calls before they are made."""
        return self.contestant.keeps and not self.contestant.held


class Scored(NamedTuple):
    """A finished job."""

    job: Job
    response: ArmResponse
    score: Score


class _Pending(NamedTuple):
    """A response that waits for the verdicts of its judge."""

    job: Job
    response: ArmResponse
    judge: Judge
    verdicts: tuple[Name, ...]


class Runner:
    """Runs jobs, at most `concurrency` at once. `stopped` is the reason for an early end, else empty."""

    def __init__(
        self, experiment: Experiment, checkpoint: Checkpoint, *, concurrency: int, watch: Watch | None
    ) -> None:
        self.done: dict[Name, Scored] = {}
        self.stopped = ""
        self.progress = Progress(experiment.suite.name)
        self._experiment = experiment
        self._checkpoint = checkpoint
        self._concurrency = concurrency
        self._watch = watch
        self._ledger = Ledger(experiment, checkpoint)
        self._completed: queue.SimpleQueue[tuple[Job, Completion]] = queue.SimpleQueue()
        self._in_flight: dict[Name, Callable[[], object]] = {}
        self._scores: dict[tuple[str, str], Score] = {}
        self._verdict_jobs: deque[Job] = deque()
        self._verdicts: dict[Name, ArmResponse] = {}
        self._pending: dict[Name, list[_Pending]] = {}
        seconds = experiment.suite.budget.seconds
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def work(self, contestants: list[Contestant], *, first: int | None = None) -> None:
        """Ask these contestants every item, or the `first` ones in random order. Skips jobs that are done.

        An early end stops the jobs in flight and keeps their cost.
        """
        jobs = list(self._jobs(contestants, first))
        self._add_progress(contestants, jobs)
        fresh = self._fresh([job for job in jobs if job.name not in self.done])
        self._show()
        try:
            while self._fill(fresh) or self._in_flight:
                self._receive()
        except BaseException:
            self._stop_all()
            raise
        finally:
            self._checkpoint.sync()
            self._show()

    @property
    def epochs(self) -> range:
        """The epochs of each item."""
        return range(self._experiment.suite.epochs)

    def whole(self, contestants: list[Contestant]) -> list[Question]:
        """Return the items that all of these contestants have answered in every epoch."""
        epochs = self.epochs
        names = [one.record.name for one in contestants]
        return [
            question
            for question in self._experiment.questions
            if all((name, question.task.id, epoch) in self.done for name in names for epoch in epochs)
        ]

    @property
    def judgements(self) -> list[str]:
        """A note for the report on each task set that a model has scored."""
        notes = []
        for name, judge in self._experiment.judges.items():
            scores = [one.score for one in self.done.values() if one.job.question.record.task_set == name]
            scores = [one for one in scores if AGREEMENT in one.measures]
            own = [one for key, one in self._verdicts.items() if key[0] == judge.contestant.record.name]
            if scores:
                notes.append(judgement_note(judge.contestant.record.models[0], name, scores, own))
        return notes

    def _show(self) -> None:
        self.progress.paid = self._experiment.within.spent.usd or Decimal(0)
        if self._watch is not None:
            self._watch(self.progress)

    # Jobs.

    def _add_progress(self, contestants: list[Contestant], jobs: list[Job]) -> None:
        for name in (one.record.name for one in contestants):
            self.progress.arms[name] = ArmProgress(name, 0)
        for job in jobs:
            arm = self.progress.arms[job.contestant.record.name]
            arm.planned += 1
            if job.name in self.done:
                _, response, score = self.done[job.name]
                arm.take(response, score.value)

    def _jobs(self, contestants: list[Contestant], first: int | None) -> Iterator[Job]:
        """Yield the items in random order; for each item every epoch with the arms in random order."""
        suite = self._experiment.suite
        draw = random.Random(f"order {suite.seeds[0]}")  # noqa: S311 - the same order each time
        questions = list(self._experiment.questions)
        draw.shuffle(questions)
        for question in questions[:first]:
            for epoch in range(suite.epochs):
                arms = list(contestants)
                draw.shuffle(arms)
                rounds, place = divmod(epoch, len(suite.seeds))
                seed = suite.seeds[place] + _SEED_STEP * rounds
                yield from (Job(arm, question, epoch, seed) for arm in arms)

    def _fresh(self, jobs: list[Job]) -> Iterator[Job]:
        """Return the jobs without an answer in the checkpoint, and finish the others."""
        keys = [job.key for job in jobs]
        self._ledger.count_earlier(keys)
        left = []
        for job, key in zip(jobs, keys, strict=True):
            response = self._checkpoint.answers.get(key) if job.contestant.keeps else None
            if response is None:
                left.append(job)
            else:
                self.progress.kept += 1
                self._finish(job, response)
        return iter(left)

    def _fill(self, jobs: Iterator[Job]) -> bool:
        """Begin jobs up to the concurrency. Returns False if no job is left to begin."""
        if self._overdue:
            self._stop(f"the {self._experiment.suite.budget.seconds:g} seconds of its budget are over")
        while len(self._in_flight) < self._concurrency and not self.stopped:
            job = self._verdict_jobs.popleft() if self._verdict_jobs else next(jobs, None)
            if job is None:
                return False
            if job.unreserved and (exhausted := self._exhausted_limit) is not None:
                self._stop(exhausted)
                return False
            self._begin(job)
        return not self.stopped

    @property
    def _exhausted_limit(self) -> str | None:
        """The exhausted limit, if any; for arms whose calls no budget reserves."""
        units = ("usd", "tokens", "calls")
        for level, name in product(self._experiment.within.levels, units):
            limit, amount = getattr(level.limits, name), getattr(level.spent, name)
            if limit is not None and amount >= limit:
                sign = "$" if name == "usd" else ""
                return f"the {name} limit of {level.title} is reached: limit {sign}{limit}, spent {sign}{amount}"
        return None

    @property
    def _overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _begin(self, job: Job) -> None:
        self._in_flight[job.name] = lambda: None
        trial = Trial(job.epoch, job.seed, self._checkpoint.mark(job.key) if job.contestant.marked else "")
        stop = job.contestant.begin(
            job.question.task, trial, lambda completion: self._completed.put((job, completion))
        )
        self._in_flight[job.name] = stop

    def _receive(self) -> None:
        with suppress(queue.Empty):
            self._complete(*self._completed.get(timeout=_TICK))
        self._show()

    def _complete(self, job: Job, completion: Completion) -> None:
        del self._in_flight[job.name]
        try:
            response = completion()
        except OutOfBudgetError as error:
            self._keep_cost(job, error.spent)
            self._stop(str(error))
            return
        self._keep(job, response)
        if job.name in self._pending:
            self._take_verdict(job, response)
        else:
            self._finish(job, response)

    def _keep(self, job: Job, response: ArmResponse) -> None:
        """Keep a response and count it if no budget did. A failed verdict is not kept: the next start asks again."""
        if job.contestant.keeps and not (job.name in self._pending and response.failure is not None):
            self._checkpoint.add(_line(job, response))
        if job.unreserved:
            self._ledger.count([response])

    def _keep_cost(self, job: Job, response: ArmResponse) -> None:
        if response.amount.calls:
            self._checkpoint.add(_line(job, response, given_up=True))

    # Scores.

    def _finish(self, job: Job, response: ArmResponse) -> None:
        if job.question.record.task_set in self._experiment.judges and response.failure is None:
            self._judge(job, response)
        else:
            self._settle(job, response, self._score(job, response))

    def _settle(self, job: Job, response: ArmResponse, score: Score) -> None:
        self.done[job.name] = Scored(job, response, score)
        self.progress.arms[job.contestant.record.name].take(response, score.value)

    def _score(self, job: Job, response: ArmResponse) -> Score:
        if response.failure is not None:
            return Score(value=0)
        record = job.question.record
        answer = Answer(text=response.text, data=response.data)
        place = record.id, answer.model_dump_json()
        try:
            if place not in self._scores:
                scorer = self._experiment.scorers[record.task_set]
                self._scores[place] = scorer.score(answer, self._experiment.gold[record.id])
            return self._scores[place]
        except UsageError as error:
            raise UsageError(
                f"the answer of {job.contestant.record.name!r} to the item {record.id!r}: {error}; the answers are "
                "kept: correct this and start again, and no call is made twice"
            ) from error

    def _judge(self, job: Job, response: ArmResponse) -> None:
        """Ask for verdicts on a response in both orders, unless equal ones are known or asked for."""
        record = job.question.record
        judge = self._experiment.judges[record.task_set]
        tasks = judge.tasks(job.question.task, response, self._experiment.gold[record.id])
        verdicts = [Job(judge.contestant, Question(task, record), 0, 0) for task in tasks]
        pending = _Pending(job, response, judge, tuple(one.name for one in verdicts))
        for one in {one.name: one for one in verdicts}.values():
            if one.name in self._pending:
                self._pending[one.name].append(pending)
            elif one.name not in self._verdicts:
                self._pending[one.name] = [pending]
                self._ask_verdict(one)
        if job.name not in self.done:
            self._conclude(pending)

    def _ask_verdict(self, verdict: Job) -> None:
        key = verdict.key
        self._ledger.count_earlier([key])
        kept = self._checkpoint.answers.get(key)
        if kept is None:
            self._verdict_jobs.append(verdict)
        else:
            self._take_verdict(verdict, kept)

    def _take_verdict(self, verdict: Job, response: ArmResponse) -> None:
        self._verdicts[verdict.name] = response
        for pending in self._pending.pop(verdict.name):
            self._conclude(pending)

    def _conclude(self, pending: _Pending) -> None:
        """Score a response once all its verdicts are there."""
        if all(name in self._verdicts for name in pending.verdicts):
            score = pending.judge.score([self._verdicts[name] for name in pending.verdicts])
            self._settle(pending.job, pending.response, score)

    # Ends.

    def _stop(self, why: str) -> None:
        """Begin no more jobs. After the deadline, also stop those in flight."""
        self.stopped = self.stopped or why
        if self._overdue:
            self._stop_all()

    def _stop_all(self) -> None:
        """Stop the jobs in flight. Keep their cost, and responses that come all the same."""
        self.stopped = self.stopped or "it was interrupted"
        for stop in self._in_flight.values():
            stop()
        deadline = time.monotonic() + _GRACE
        while self._in_flight and time.monotonic() < deadline:
            with suppress(queue.Empty):
                self._receive_stopped(*self._completed.get(timeout=_TICK))
        self._in_flight.clear()

    def _receive_stopped(self, job: Job, completion: Completion) -> None:
        self._in_flight.pop(job.name, None)
        try:
            response = completion()
        except OutOfBudgetError as error:
            self._keep_cost(job, error.spent)
        except FusionError:
            pass
        else:
            self._keep(job, response)


def _line(job: Job, response: ArmResponse, *, given_up: bool = False) -> Line:
    arm, item, epoch = job.name
    return Line(key=job.key, arm=arm, item=item, epoch=epoch, given_up=given_up, answered=response)
