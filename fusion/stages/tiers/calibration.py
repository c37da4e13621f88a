"""Calibration: a confidence threshold from labelled examples, with a guarantee for any number of them."""

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pydantic import Field, model_validator

from fusion.core.errors import InputError
from fusion.core.validation import Authored

LEVELS: Final = (0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.0)
"""Default thresholds, the strictest first."""

_MOST_STARTS: Final = 4
_FEW: Final = 5


class Scored(NamedTuple):
    """The answer to an example: its stated confidence, and True if it was right."""

    confidence: float
    right: bool


class Calibration(Authored):
    """A threshold of confidence, and the evidence for it.

    With probability 1 - `delta` over the choice of examples, at most the share `target` of the answers accepted at
    `threshold` is wrong, if later requests are like the examples. `accepted` of `examples` reached the threshold,
    `wrong` of those were wrong, and `escalation_rate` is the share that did not reach it.
    """

    target: float = Field(gt=0, lt=1, description="Share of accepted answers that may be wrong.")
    delta: float = Field(gt=0, lt=1, description="Probability that more of them are wrong.")
    threshold: float = Field(ge=0, le=1, description="Confidence at which an answer is accepted.")
    examples: int = Field(ge=1, description="Number of labelled examples.")
    accepted: int = Field(ge=1, description="Number of answers that reached the threshold.")
    wrong: int = Field(ge=0, description="Number of those that were wrong.")
    starts: int = Field(default=1, ge=1, description="Number of threshold sequences that shared `delta`.")

    @property
    def bound(self) -> float:
        """The upper bound of the share of wrong answers."""
        return clopper_pearson(self.wrong, self.accepted, self.delta / self.starts)

    @property
    def escalation_rate(self) -> float:
        """The share of examples that were not accepted."""
        return 1 - self.accepted / self.examples

    @model_validator(mode="after")
    def _holds(self) -> "Calibration":
        if self.wrong > self.accepted or self.accepted > self.examples:
            raise ValueError(
                f"{self.wrong} wrong of {self.accepted} accepted of {self.examples} examples is impossible"
            )
        if not _shown(self.wrong, self.accepted, self.target, self.delta / self.starts):
            raise ValueError(
                f"{self.wrong} wrong of {self.accepted} do not show that at most {self.target:g} are wrong: it "
                f"may be {self.bound:.3f}; calibrate with more examples, or raise `target` or `delta`"
            )
        return self


def calibrated(
    scored: Sequence[Scored], *, target: float, delta: float, levels: Sequence[float] = LEVELS
) -> Calibration:
    """Return the lowest threshold of `levels` at which at most the share `target` of accepted answers is wrong.

    For each threshold t, the hypothesis "more than `target` of the answers that reach t are wrong" is tested on the
    examples that reach it. Wrong ones are binomial among these, so the hypothesis is rejected at level d if the upper
    bound of Clopper and Pearson (Biometrika 26, 1934) for d is at most `target`. The thresholds are fixed beforehand
    and tested from the strictest on until one is not rejected, each at the full level (fixed-sequence testing). Any
    rejection is then false with probability `delta` at most: "Learn then Test", Angelopoulos et al.,
    arXiv:2110.01052; for cascades of models "Trust or Escalate", Jung et al., arXiv:2407.18370. If few examples reach
    the strict thresholds, the sequence would end at once. More than five thresholds are therefore tested in four
    sequences that begin at different ones and share `delta` (the multi-start of the former).

    Raises InputError if no threshold can be shown to hold.
    """
    check_shares(target, delta)
    if not scored:
        raise InputError("no examples to calibrate with; give labelled ones")
    sequences = list(_sequences(sorted(set(levels), reverse=True)))
    shown: dict[float, tuple[int, int]] = {}
    for sequence in sequences:
        for level in sequence:
            reached = [one.right for one in scored if one.confidence >= level - 1e-9]
            wrong = reached.count(False)
            if not reached or not _shown(wrong, len(reached), target, delta / len(sequences)):
                break
            shown[level] = len(reached), wrong
    if not shown:
        least = math.ceil(math.log(delta / len(sequences)) / math.log(1 - target))
        raise InputError(
            f"no threshold keeps the wrong share at {target:g} on these {len(scored)} examples; even with no wrong "
            f"answer, {least} must reach it. Give more examples, or raise `target` or `delta`"
        )
    threshold = min(shown)
    accepted, wrong = shown[threshold]
    return Calibration(
        target=target,
        delta=delta,
        threshold=threshold,
        examples=len(scored),
        accepted=accepted,
        wrong=wrong,
        starts=len(sequences),
    )


def clopper_pearson(wrong: int, of: int, delta: float) -> float:
    """Return the upper bound of a share after `wrong` of `of`, too low with probability `delta` at most.

    >>> round(clopper_pearson(0, 59, 0.05), 3)
    0.05
    """
    if wrong >= of:
        return 1.0
    low, high = wrong / of, 1.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (low, middle) if _at_most(wrong, of, middle) <= delta else (middle, high)
    return high


def proved(wrong: int, of: int, target: float) -> float:
    """Return the p-value of "more than `target` are wrong", after `wrong` of `of`."""
    return _at_most(wrong, of, target)


def _shown(wrong: int, of: int, target: float, delta: float) -> bool:
    """Return True if the upper bound is at most `target`: so few are wrong with probability `delta` at most."""
    return _at_most(wrong, of, target) <= delta


def _at_most(wrong: int, of: int, share: float) -> float:
    """Return the probability of `wrong` or fewer of `of`."""
    if share <= 0:
        return 1.0
    whole = math.lgamma(of + 1)
    return math.fsum(
        math.exp(
            whole - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * math.log(share) + (of - k) * math.log1p(-share)
        )
        for k in range(wrong + 1)
    )


def _sequences(levels: Sequence[float]) -> Iterator[Sequence[float]]:
    """Yield the thresholds from each of the starts on."""
    starts = 1 if len(levels) <= _FEW else _MOST_STARTS
    for start in range(starts):
        yield levels[start * len(levels) // starts :]


def check_shares(share: float, delta: float, *, name: str = "target") -> None:
    """Raise InputError for a share or a probability that is not between 0 and 1."""
    for key, value in ((name, share), ("delta", delta)):
        if not 0 < value < 1:
            raise InputError(f"`{key}` is {value!r}; give a share between 0 and 1")
