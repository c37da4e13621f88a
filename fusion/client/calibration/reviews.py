"""Reviews: choose the reviewer, prompt and threshold of a review, or of a cascade's judge, from labelled examples."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Any, Final, NamedTuple

from fusion.client.calibration.cascades import same_answer, with_acceptance
from fusion.client.calibration.examples import Asking, Example, Right, Watch
from fusion.client.client import Fusion
from fusion.core.budget import Budget
from fusion.core.errors import InputError
from fusion.core.params import RoleSpec
from fusion.core.result import Judged, Result
from fusion.core.types import Money, Value, as_text
from fusion.pipeline.loader import LoadedPipeline, PipelineGiven, checked
from fusion.pipeline.spec import Pipeline
from fusion.stages.base import Stage
from fusion.stages.fields import Choice
from fusion.stages.kinds.cascade import Cascade
from fusion.stages.kinds.review import Review
from fusion.stages.text.extract import Extractor
from fusion.stages.tiers.calibration import check_shares, clopper_pearson
from fusion.stages.tiers.spec import Accept, Tier

_TAIL: Final = 0.025
"""Probability of each side outside of an interval."""


class ReviewCandidate(Value):
    """A reviewer, by role or model id, with its template, and the confidence that it must state, if any."""

    reviewer: str
    prompt: str
    threshold: float | None = None


class MeasuredReview(Value):
    """Verdicts of a candidate on labelled results, and their cost in dollars; None where a price is unknown.

    Of the `wrong` results it `caught` some, of the `right` ones it `refused` some: it did not accept them. `silent`
    verdicts could not be read, and refuse too. The share of right ones that it refuses is at most `bound`, too low
    with the probability `delta`. A reviewer that refuses as many at random catches so many with the probability `p`.
    """

    candidate: ReviewCandidate
    wrong: int
    caught: int
    right: int
    refused: int
    silent: int
    calls: int
    usd: Money | None
    delta: float
    bound: float
    p: float

    @property
    def caught_interval(self) -> tuple[float, float]:
        """The 95% interval of the share of wrong results that it catches."""
        return _interval(self.caught, self.wrong)

    @property
    def refused_interval(self) -> tuple[float, float]:
        """The 95% interval of the share of right results that it refuses."""
        return _interval(self.refused, self.right)

    def allowed(self, refuse: float) -> bool:
        """Return True if it is shown to refuse at most this share of right results, and to catch more than chance."""
        return self.bound <= refuse and self.p <= self.delta


class CalibratedReview(Value):
    """The candidates as they were measured, the one `chosen`, and the pipeline with it; None if none pays."""

    stage: str
    refuse: float
    delta: float
    candidates: tuple[MeasuredReview, ...]
    chosen: MeasuredReview | None = None
    pipeline: Pipeline | None = None

    @property
    def reason(self) -> str:
        """The reason why no candidate is chosen."""
        one, number = self.candidates[0], len(self.candidates)
        if not one.wrong:
            return f"no reviewer pays: none of the {one.right} results is wrong, so there is nothing to catch"
        least = math.ceil(math.log(self.delta / number) / math.log(1 - self.refuse))
        return (
            f"no reviewer pays: none of {number} candidates is shown to catch more wrong results than chance, and to "
            f"refuse at most the share {self.refuse:g} of right ones. There are {one.right} right ones; with none "
            f"refused, {least} are needed. Leave the review out, give more examples, or raise `refuse`"
        )

    @property
    def evidence(self) -> str:
        """The figures of the chosen candidate, in words."""
        one = self.chosen
        if one is None:
            return self.reason
        cost = "an unknown cost" if one.usd is None else f"${one.usd:.4f}"
        return (
            f"chosen of {len(self.candidates)} on {one.wrong + one.right} results: caught {one.caught} of "
            f"{one.wrong} wrong ones, refused {one.refused} of {one.right} right ones (at most {one.bound:.1%} with "
            f"a probability of {1 - self.delta:.0%}), for {cost} in {one.calls} calls"
        )


def calibrate_review(
    fusion: Fusion,
    pipeline: PipelineGiven,
    examples: Iterable[tuple[str, Any] | Example],
    *,
    refuse: float,
    delta: float = 0.1,
    stage: str | None = None,
    reviewers: Sequence[str] = (),
    prompts: Sequence[str] = (),
    thresholds: Sequence[float] = (),
    right: Right | None = None,
    items: bool = False,
    concurrency: int = 16,
    within: Budget | str | None = None,
    watch: Watch | None = None,
) -> CalibratedReview:
    """Choose the reviewer, prompt and threshold of a review, or of a cascade's judge, from labelled examples.

    `examples` are pairs of a prompt and the right result; with `items`, the list of right results in the order of
    the items. `reviewers` are roles or model ids, `prompts` names of templates or templates, `thresholds` values of
    confidence; by default those of the stage. Every combination is measured. Its reviewer judges the same results:
    give `fusion` a store, and they are made once. Stages after the review are not run.

    The chosen candidate catches most wrong results of those that refuse at most the share `refuse` of right ones, and
    that catch more than chance; of several, the cheapest. The share is the upper bound of Clopper and Pearson, chance
    Fisher's exact test, both at `delta` over the number of candidates: they hold for all of them with a probability
    of 1 - `delta` each. `chosen` is None if no candidate is left.

    Raises InputError without such a stage or without examples, RunFailed if a run fails.

    >>> found = calibrate_review(fusion, "checked.yaml", examples, refuse=0.05, reviewers=["frontier", "bulk"])
    >>> found.chosen, found.pipeline
    """
    check_shares(refuse, delta, name="refuse")
    loaded = fusion.changed(pipeline, {})
    name, reviewing = review_to_calibrate(loaded.pipeline, stage)
    asking = Asking(fusion, tuple(Example(*one) for one in examples), right, concurrency, within, watch)
    if not asking.examples:
        raise InputError("no examples to calibrate with; give labelled ones")
    trials = list(_trials(loaded, name, reviewing, reviewers, prompts, thresholds))
    number = sum(len(trial.thresholds) for trial in trials)
    measured = tuple(one for trial in trials for one in trial.measured(asking, items=items, delta=delta / number))
    found = CalibratedReview(stage=name, refuse=refuse, delta=delta, candidates=measured)
    allowed = [one for one in measured if one.allowed(refuse)]
    if not allowed:
        return found
    chosen = min(allowed, key=lambda one: (-one.caught, one.usd is None, one.usd or 0, one.refused))
    whole = next(trial for trial in trials if chosen.candidate in trial.candidates).chosen(chosen.candidate)
    return found.model_copy(update={"chosen": chosen, "pipeline": whole})


def review_to_calibrate(pipeline: Pipeline, stage: str | None) -> tuple[str, Review | Cascade]:
    """Return the stage whose reviewer is chosen, with its name. Raises InputError if there is none, or several."""
    found = {name: one for name, one in pipeline.stages.items() if _reviews(one)}
    if stage is None and len(found) == 1:
        stage = next(iter(found))
    one = found.get(stage) if stage is not None else None
    if isinstance(one, Review | Cascade):
        return str(stage), one
    there = f"; there are: {', '.join(found)}" if found else ""
    named = "" if stage is None else f" named {stage!r}"
    raise InputError(f"{pipeline.name!r} has no single review or cascade with a judge{named}{there}; name one")


def _reviews(stage: Stage) -> bool:
    return isinstance(stage, Review) or (isinstance(stage, Cascade) and _acceptance(stage).judge is not None)


def _acceptance(cascade: Cascade) -> Accept:
    accept = cascade.tiers[0].accept or cascade.accept
    assert accept is not None
    return accept


class _Seen(NamedTuple):
    """A result that was judged, and the verdict on it."""

    right: bool
    verdict: Judged

    def refused(self, threshold: float | None) -> bool:
        if self.verdict.verdict in ("accept", "unreviewed"):
            return threshold is not None and (self.verdict.confidence or 0.0) < threshold
        return True


class _Trial(NamedTuple):
    """A reviewer with a template, and the thresholds that are read off its verdicts."""

    loaded: LoadedPipeline
    name: str
    stage: Review | Cascade
    reviewer: str | None
    prompt: str | None
    thresholds: tuple[float | None, ...]

    @property
    def role(self) -> str | None:
        """The role that reviews; None if the stage's own choice does."""
        if self.reviewer is None or not is_model(self.reviewer):
            return self.reviewer
        stages = self.loaded.pipeline.stages.items()
        others = {role for name, one in stages if name != self.name for _, role in one.roles()}
        own = {role for key, role in self.stage.roles() if key.startswith("tiers")}
        return "reviewer" if "reviewer" not in others | own else f"{self.name}_reviewer"

    @property
    def candidates(self) -> list[ReviewCandidate]:
        reviewer, prompt = self.reviewer or _roles(self.stage), self.prompt or _template(self.stage)
        return [ReviewCandidate(reviewer=reviewer, prompt=prompt, threshold=one) for one in self.thresholds]

    def chosen(self, candidate: ReviewCandidate) -> Pipeline:
        """Return the pipeline with a candidate."""
        pipeline = self.loaded.pipeline
        stages = {
            **pipeline.stages,
            self.name: _with_reviewer(self.stage, self.role, self.prompt, candidate.threshold),
        }
        roles = dict(pipeline.roles)
        if self.reviewer is not None and self.role != self.reviewer and self.role is not None:
            roles[self.role] = RoleSpec(chain=(self.reviewer,))
        return pipeline.model_copy(update={"stages": stages, "roles": roles})

    def measured(self, asking: Asking, *, items: bool, delta: float) -> Iterator[MeasuredReview]:
        """Yield each candidate as it was measured on the examples."""
        fusion = asking.fusion
        if self.reviewer is not None and self.role != self.reviewer:
            fusion = fusion.using(roles={str(self.role): self.reviewer})
        seen, costs = list[_Seen](), list[tuple[int, Money | None]]()
        for example, result in asking._replace(fusion=fusion).results(self._judging()):
            seen += _seen(result.stages[self.name].verdicts, example, asking.right, items=items)
            costs.append(self._cost(result))
        prices = [usd for _, usd in costs if usd is not None]
        usd = sum(prices, Decimal(0)) if len(prices) == len(costs) else None
        calls = sum(calls for calls, _ in costs)
        for candidate in self.candidates:
            counts = _counts(seen, candidate.threshold, delta)
            yield MeasuredReview(candidate=candidate, calls=calls, usd=usd, **counts)

    def _judging(self) -> LoadedPipeline:
        """Return the pipeline up to the review, which judges every result once and asks for no revision."""
        confident = None if self.thresholds == (None,) else 0.0
        stage = _with_reviewer(self.stage, self.role, self.prompt, confident)
        if isinstance(stage, Review):
            stage = stage.model_copy(update={"revisions": 0, "escalate_to": None, "min_ok": 0, "on_error": "skip"})
        else:
            again = Tier(roles=stage.tiers[0].roles[:1], temperature=stage.tiers[0].temperature)
            stage = stage.model_copy(update={"tiers": (stage.tiers[0], again)})
        return checked(self.loaded.upto(self.name, stage))

    def _cost(self, result: Result) -> tuple[int, Money | None]:
        """Return the calls of the reviewer in a run, and their cost as if each had been made."""
        lines = [line for line in result.receipt.lines if line.stage == self.name]
        if isinstance(self.stage, Cascade):
            judge = self.role or _acceptance(self.stage).judge
            lines = [line for line in lines if line.role == judge]
        costs = [line.cost + line.saved.cost for line in lines]
        usd = None if any(cost.unknown_calls for cost in costs) else sum((cost.usd for cost in costs), Decimal(0))
        return sum(line.calls + line.reused for line in lines), usd


def _trials(
    loaded: LoadedPipeline,
    name: str,
    stage: Review | Cascade,
    reviewers: Sequence[str],
    prompts: Sequence[str],
    thresholds: Sequence[float],
) -> Iterator[_Trial]:
    if prompts and isinstance(stage, Review) and stage.together > 1:
        raise InputError(f"{name!r} judges {stage.together} values in one call; set `batch: 1` to choose its prompt")
    for one in thresholds:
        if not 0 <= one <= 1:
            raise InputError(f"threshold {one!r}: give a confidence from 0 to 1")
    levels: tuple[float | None, ...] = tuple(dict.fromkeys(thresholds)) or (_threshold(stage),)
    for reviewer, prompt in product(dict.fromkeys(reviewers) or (None,), dict.fromkeys(prompts) or (None,)):
        yield _Trial(loaded, name, stage, reviewer, prompt, levels)


def is_model(name: str) -> bool:
    """Return True for the id of a model, False for the name of a role."""
    return "/" in name or ":" in name


def _threshold(stage: Review | Cascade) -> float | None:
    return stage.confidence if isinstance(stage, Review) else _acceptance(stage).threshold


def _template(stage: Review | Cascade) -> str:
    return stage.template if isinstance(stage, Review) else stage.judge_prompt(_acceptance(stage))


def _roles(stage: Review | Cascade) -> str:
    if isinstance(stage, Review):
        return ", ".join(one.use for one in stage.role)
    return str(_acceptance(stage).judge)


def _with_reviewer(
    stage: Review | Cascade, role: str | None, prompt: str | None, threshold: float | None
) -> Review | Cascade:
    if isinstance(stage, Review):
        changes: dict[str, Any] = {"confidence": threshold}
        changes |= {"role": (Choice(use=role),)} if role is not None else {}
        changes |= {"prompt": prompt} if prompt is not None else {}
        return stage.model_copy(update=_new(stage, changes))
    accept = _acceptance(stage)
    calibration = None if accept.confidence is not None else accept.calibration
    changes = {"confidence": threshold or None, "calibration": calibration}
    changes |= {"judge": role} if role is not None else {}
    changes |= {"judge_prompt": prompt} if prompt is not None else {}
    return with_acceptance(stage, accept.model_copy(update=_new(accept, changes)))


def _new(value: Value, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes that differ from the value: an option that stays as it is is not written."""
    return {key: one for key, one in changes.items() if getattr(value, key) != one}


def _seen(verdicts: Sequence[Judged], example: Example, right: Right | None, *, items: bool) -> Iterator[_Seen]:
    """Yield the first verdict on each result of an example whose right value is known."""
    is_right = right or same_answer(Extractor())
    first = [one for one in verdicts if one.tier in (None, 1)]
    if not items and len(first) > 1:
        raise InputError(
            f"the review judges {len(first)} results of one example; give the right one of each: a list, with `items`"
        )
    for one in first:
        if not items:
            yield _Seen(is_right(as_text(one.draft), example.gold), one)
        elif (one.item or 0) < len(example.gold) and example.gold[one.item or 0] is not None:
            yield _Seen(is_right(as_text(one.draft), example.gold[one.item or 0]), one)


def _counts(seen: Sequence[_Seen], threshold: float | None, delta: float) -> dict[str, Any]:
    wrong, right = ([one for one in seen if one.right is side] for side in (False, True))
    caught, refused = (sum(one.refused(threshold) for one in side) for side in (wrong, right))
    return {
        "wrong": len(wrong),
        "caught": caught,
        "right": len(right),
        "refused": refused,
        "silent": sum(not one.verdict.given for one in seen),
        "delta": delta,
        "bound": clopper_pearson(refused, len(right), delta) if right else 1.0,
        "p": _by_chance(caught, len(wrong), refused, len(right)),
    }


def _by_chance(caught: int, wrong: int, refused: int, right: int) -> float:
    """Return the probability of so many caught ones or more, if the refused results are drawn at random.

    Fisher 1934, Statistical Methods for Research Workers, section 21.02: the exact test, one-sided.
    """
    drawn = caught + refused
    ways = sum(math.comb(wrong, k) * math.comb(right, drawn - k) for k in range(caught, min(wrong, drawn) + 1))
    return ways / math.comb(wrong + right, drawn)


def _interval(count: int, of: int) -> tuple[float, float]:
    if not of:
        return 0.0, 1.0
    return 1 - clopper_pearson(of - count, of, _TAIL), clopper_pearson(count, of, _TAIL)
