"""Runner: asks every arm every item, in random order and side by side, and keeps each answer as it comes."""

import queue
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Final, NamedTuple

from fusion.bench.arms.base import BENCHMARK, Answered, Contestant, OutOfBudgetError, Taken, Turn, digest_of
from fusion.bench.checkpoint import Kept, Line
from fusion.bench.experiment import Prepared, Question
from fusion.bench.judge import AGREEMENT, Judge, label
from fusion.bench.progress import ArmProgress, Progress
from fusion.bench.scorers.base import Answer, Score
from fusion.core.budget import Amount, Budget
from fusion.core.errors import FusionError, UsageError
from fusion.core.types import Limits

_APART: Final = 1000
"""How far the seeds of epochs lie from those given, where there are more epochs than seeds."""
_TICK: Final = 0.25
_PATIENCE: Final = 5.0
"""Seconds that what is stopped has to give its slots back; a function of the user's own may never do so."""

Name = tuple[str, str, int]
"""An arm's, an item's, and the epoch."""
Watch = Callable[[Progress], None]


class Job(NamedTuple):
    """One arm, one item, one epoch. `key` is the same wherever and whenever it is asked."""

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


class _Waiting(NamedTuple):
    """An answer that waits for its verdicts."""

    job: "Job"
    answered: Answered
    judge: Judge
    verdicts: tuple[Name, ...]


class _Before(NamedTuple):
    """What earlier starts have spent on an answer: by what was kept of it, and by the ledger of its runs."""

    told: Sequence[Answered] = ()
    by_runs: Sequence[Amount] = ()


class Done(NamedTuple):
    """What came of a job."""

    job: Job
    answered: Answered
    score: Score


def shared_budget(limits: Limits) -> Budget:
    """What all runs of a benchmark draw on. Its seconds are the runner's own."""
    return Budget(limits.model_copy(update={"seconds": None}), name=BENCHMARK, strict_usd=limits.usd is not None)


class Runner:
    """Does jobs, so many at once. `stopped` says why it ended before all were done, else it is empty."""

    def __init__(
        self,
        ready: Prepared,
        kept: Kept,
        *,
        concurrency: int,
        watch: Watch,
    ) -> None:
        self.done: dict[Name, Done] = {}
        self.stopped = ""
        self._ready = ready
        self._kept = kept
        self._concurrency = concurrency
        self._watch = watch
        self._came: queue.SimpleQueue[tuple[Job, Taken]] = queue.SimpleQueue()
        self._flying: dict[Name, Callable[[], object]] = {}
        self._scores: dict[tuple[str, str], Score] = {}
        self._next: deque[Job] = deque()
        self._judged: dict[Name, Answered] = {}
        self._waiting: dict[Name, list[_Waiting]] = {}
        self._ledger = ready.ledger()
        self._counted: set[str] = set()
        self._given_up: dict[str, list[Answered]] = {}
        for line in kept.given_up:
            self._given_up.setdefault(line.key, []).append(line.answered)
        seconds = ready.suite.budget.seconds
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self.progress = Progress(ready.suite.name)

    def work(self, contestants: list[Contestant], *, first: int | None = None) -> None:
        """Ask these every item, or the first so many of the random order; nothing that is done is asked again.

        What is under way when it ends early is stopped, and what it cost is kept.
        """
        jobs = list(self._jobs(contestants, first))
        self._count_in(contestants, jobs)
        fresh = self._fresh([job for job in jobs if job.name not in self.done])
        self._show()
        try:
            while self._fill(fresh) or self._flying:
                self._take_next()
        except BaseException:
            self._give_up()
            raise
        finally:
            self._kept.sync()
            self._show()

    def whole(self, contestants: list[Contestant]) -> list[Question]:
        """The items that each of these was asked in every epoch."""
        epochs = range(self._ready.suite.epochs)
        names = [one.record.name for one in contestants]
        return [
            question
            for question in self._ready.questions
            if all((name, question.task.id, epoch) in self.done for name in names for epoch in epochs)
        ]

    def _show(self) -> None:
        self.progress.paid = self._ready.within.spent.usd or Decimal(0)
        self._watch(self.progress)

    # Jobs.

    def _count_in(self, contestants: list[Contestant], jobs: list[Job]) -> None:
        """The progress of these jobs, with those that are done."""
        for name in (one.record.name for one in contestants):
            self.progress.arms[name] = ArmProgress(name, 0)
        for job in jobs:
            arm = self.progress.arms[job.contestant.record.name]
            arm.planned += 1
            if job.name in self.done:
                _, answered, score = self.done[job.name]
                arm.take(answered, score.value)

    def _jobs(self, contestants: list[Contestant], first: int | None) -> Iterator[Job]:
        """Items in random order; with each item all epochs and arms, in random order too."""
        suite = self._ready.suite
        draw = random.Random(f"order {suite.seeds[0]}")  # noqa: S311 - the same order each time
        questions = list(self._ready.questions)
        draw.shuffle(questions)
        for question in questions[:first]:
            for epoch in range(suite.epochs):
                arms = list(contestants)
                draw.shuffle(arms)
                rounds, place = divmod(epoch, len(suite.seeds))
                seed = suite.seeds[place] + _APART * rounds
                yield from (Job(arm, question, epoch, seed) for arm in arms)

    def _fresh(self, jobs: list[Job]) -> Iterator[Job]:
        """The jobs that have no answer yet; those that have one are done with it. What was spent on them counts."""
        left, told, spent = [], list[Answered](), list[Amount]()
        for job in jobs:
            key = job.key
            before = self._spent_before(key)
            told += before.told
            spent += before.by_runs
            answered = self._kept.answers.get(key) if job.contestant.keeps else None
            if answered is None:
                left.append(job)
            else:
                self.progress.kept += 1
                self._finish(job, answered)
        self._ready.count(told, spent)
        return iter(left)

    def _spent_before(self, key: str) -> "_Before":
        """What earlier starts have spent on an answer; it is told once, whoever has the same one."""
        if key in self._counted:
            return _Before()
        self._counted.add(key)
        runs = self._ledger.get(self._kept.mark(key), {}) if self._ledger else {}
        kept = self._kept.answers.get(key)
        told = [*self._given_up.get(key, ()), *(() if kept is None else (kept,))]
        return _Before([one for one in told if one.run_id not in runs], list(runs.values()))

    def _fill(self, jobs: Iterator[Job]) -> bool:
        """Begin jobs until enough are under way; False once nothing more is to be begun."""
        while len(self._flying) < self._concurrency and not self.stopped:
            if self._overdue:
                self._stop(self._time_is_over)
                return False
            job = self._next.popleft() if self._next else next(jobs, None)
            if job is None:
                return False
            if _spends_unheld(job) and (used_up := self._used_up) is not None:
                self._stop(used_up)
                return False
            self._begin(job)
        return not self.stopped

    @property
    def _used_up(self) -> str | None:
        """What limit is reached, for who is held by none before it spends."""
        limits, spent = self._ready.within.limits, self._ready.within.spent
        for name in ("usd", "tokens", "calls"):
            limit, amount = getattr(limits, name), getattr(spent, name)
            if limit is not None and amount >= limit:
                sign = "$" if name == "usd" else ""
                return f"the {name} limit of {BENCHMARK!r} is reached: limit {sign}{limit}, spent {sign}{amount}"
        return None

    @property
    def _time_is_over(self) -> str:
        return f"the {self._ready.suite.budget.seconds:g} seconds of its budget are over"

    def _begin(self, job: Job) -> None:
        self._flying[job.name] = lambda: None
        turn = Turn(job.epoch, job.seed, self._kept.mark(job.key) if job.contestant.marked else "")
        stop = job.contestant.begin(job.question.task, turn, lambda taken: self._came.put((job, taken)))
        self._flying[job.name] = stop

    def _take_next(self) -> None:
        try:
            self._take(*self._came.get(timeout=_TICK))
        except queue.Empty:
            if self._overdue:
                self._stop(self._time_is_over)
        self._show()

    def _take(self, job: Job, taken: Taken) -> None:
        del self._flying[job.name]
        try:
            answered = taken()
        except OutOfBudgetError as error:
            if error.spent.amount.calls:
                self._kept.add(self._line(job, error.spent, given_up=True))
            self._stop(str(error))
            return
        self._keep(job, answered)
        self._count_told(job, answered)
        if job.name in self._waiting:
            self._take_verdict(job, answered)
        else:
            self._finish(job, answered)

    def _keep(self, job: Job, answered: Answered) -> None:
        """Keep an answer, but no verdict that failed: that one is asked for again."""
        if job.contestant.keeps and not (job.name in self._waiting and answered.failure is not None):
            self._kept.add(self._line(job, answered))

    def _count_told(self, job: Job, answered: Answered) -> None:
        """Count what an arm says that it spent, whose calls no budget holds."""
        if _spends_unheld(job):
            self._ready.count([answered])

    def _finish(self, job: Job, answered: Answered) -> None:
        if job.question.record.task_set in self._ready.judges and answered.failure is None:
            self._judge(job, answered)
        else:
            self._settle(job, answered, self._score(job, answered))

    def _judge(self, job: Job, answered: Answered) -> None:
        """Have an answer judged in both orders; what was judged before is not judged again."""
        record = job.question.record
        judge = self._ready.judges[record.task_set]
        tasks = judge.tasks(job.question.task, answered, self._ready.gold[record.id])
        asked = [Job(judge.contestant, Question(task, record), 0, 0) for task in tasks]
        waiting = _Waiting(job, answered, judge, tuple(one.name for one in asked))
        for one in {one.name: one for one in asked}.values():
            if one.name in self._waiting:
                self._waiting[one.name].append(waiting)
            elif one.name not in self._judged:
                self._waiting[one.name] = [waiting]
                kept = self._kept.answers.get(one.key)
                before = self._spent_before(one.key)
                self._ready.count(before.told, before.by_runs)
                if kept is None:
                    self._next.append(one)
                else:
                    self._take_verdict(one, kept)
        if all(name in self._judged for name in waiting.verdicts) and job.name not in self.done:
            self._conclude(waiting)

    def _take_verdict(self, verdict: Job, answered: Answered) -> None:
        self._judged[verdict.name] = answered
        for waiting in self._waiting.pop(verdict.name):
            if all(name in self._judged for name in waiting.verdicts):
                self._conclude(waiting)

    def _conclude(self, waiting: "_Waiting") -> None:
        score = waiting.judge.score([self._judged[name] for name in waiting.verdicts])
        self._settle(waiting.job, waiting.answered, score)

    @property
    def judgements(self) -> list[str]:
        """What is to be said of each task set that a model has scored."""
        found = []
        for name, judge in self._ready.judges.items():
            scores = [one.score for one in self.done.values() if one.job.question.record.task_set == name]
            scores = [one for one in scores if AGREEMENT in one.measures]
            own = [one for key, one in self._judged.items() if key[0] == judge.contestant.record.name]
            if scores:
                found.append(label(judge.contestant.record.models[0], name, scores, own))
        return found

    def _settle(self, job: Job, answered: Answered, score: Score) -> None:
        self.done[job.name] = Done(job, answered, score)
        self.progress.arms[job.contestant.record.name].take(answered, score.value)

    def _score(self, job: Job, answered: Answered) -> Score:
        if answered.failure is not None:
            return Score(value=0)
        record = job.question.record
        answer = Answer(text=answered.text, data=answered.data)
        place = record.id, answer.model_dump_json()
        try:
            if place not in self._scores:
                scorer = self._ready.scorers[record.task_set]
                self._scores[place] = scorer.score(answer, self._ready.gold[record.id])
            return self._scores[place]
        except UsageError as error:
            raise UsageError(
                f"the answer of {job.contestant.record.name!r} to the item {record.id!r}: {error}; the answers are "
                "kept: mend it and start again, and no call is made twice"
            ) from error

    # Ends.

    def _stop(self, why: str) -> None:
        """Begin nothing more; once its time is over, wait for nothing more either."""
        self.stopped = self.stopped or why
        if self._overdue:
            self._give_up()

    def _give_up(self) -> None:
        """Stop what is under way; keep what it cost, and what came all the same."""
        self.stopped = self.stopped or "it was interrupted"
        for stop in self._flying.values():
            stop()
        patience = time.monotonic() + _PATIENCE
        while self._flying and time.monotonic() < patience:
            with suppress(queue.Empty):
                self._put_by(*self._came.get(timeout=_TICK))
        self._flying.clear()

    def _put_by(self, job: Job, taken: Taken) -> None:
        """Keep what came of a job, and score nothing any more."""
        self._flying.pop(job.name, None)
        try:
            answered, given_up = taken(), False
        except OutOfBudgetError as error:
            answered, given_up = error.spent, True
        except FusionError:
            return
        if not given_up:
            self._keep(job, answered)
            self._count_told(job, answered)
        elif answered.amount.calls:
            self._kept.add(self._line(job, answered, given_up=True))

    @property
    def _overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _line(self, job: Job, answered: Answered, *, given_up: bool = False) -> Line:
        arm, item, epoch = job.name
        return Line(key=job.key, arm=arm, item=item, epoch=epoch, given_up=given_up, answered=answered)


def _spends_unheld(job: Job) -> bool:
    return job.contestant.keeps and not job.contestant.held
