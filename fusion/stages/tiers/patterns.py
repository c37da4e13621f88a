"""Patterns: which members of a tier gave equal answers, and how often the common answer was right."""

import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from pydantic import Field, field_validator, model_validator

from fusion.core.errors import InputError
from fusion.core.validation import Authored
from fusion.stages.tiers.calibration import check_shares, proved

Groups = Sequence[str]
"""Letters of the members of each group of equal answers."""
_WRITTEN: Final = re.compile(r"[a-z]+(\|[a-z]+)*")
_MOST_OPEN: Final = 4
"""Most members whose answers are supposed, to see if they matter."""


class Seen(NamedTuple):
    """The answers of a tier to an example: label, pattern, and True if the answer that the tier gives was right."""

    label: str
    pattern: str
    right: bool


class Pattern(Authored):
    """The members of a tier with equal answers, as in `ab|c`, and its record in the examples of a label."""

    label: str = Field(default="", max_length=200, description="Label of the examples; empty for all.")
    pattern: str = Field(description="Groups of members with equal answers: ab|c.")
    n: int = Field(ge=1, description="Number of examples.")
    right: int = Field(ge=0, description="Number of them that were right.")
    accept: bool = Field(default=False, description="True if its answers are accepted.")

    @field_validator("pattern")
    @classmethod
    def _is_canonical(cls, pattern: str) -> str:
        groups = pattern.split("|")
        letters = "".join(groups)
        if not _WRITTEN.fullmatch(pattern) or len(set(letters)) < len(letters) or written(groups) != pattern:
            raise ValueError(f"{pattern!r} is no pattern; write the members in order, as in ab|c or a|bc")
        return pattern

    @model_validator(mode="after")
    def _fits(self) -> "Pattern":
        if self.right > self.n:
            raise ValueError(f"{self.right} right of {self.n} is impossible")
        return self


class LearnedAcceptance(Authored):
    """Accepted patterns of agreement, and the evidence for them.

    With probability 1 - `delta` over the choice of examples, at most the share `target` of the accepted answers is
    wrong, if later requests are like the examples. The records are those of the half of the examples that tested the
    patterns; the other half gave their order.
    """

    target: float = Field(gt=0, lt=1, description="Share of accepted answers that may be wrong.")
    delta: float = Field(gt=0, lt=1, description="Probability that more of them are wrong.")
    label: str | None = Field(default=None, description="An expression: the label of a request or item.")
    patterns: tuple[Pattern, ...] = Field(min_length=1, max_length=2_000, description="Patterns with their records.")

    @model_validator(mode="after")
    def _holds(self) -> "LearnedAcceptance":
        keys = [(one.label, one.pattern) for one in self.patterns]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"the pattern {twice[1]!r} of the label {twice[0]!r} is given twice")
        if self.label is None and any(one.label for one in self.patterns):
            raise ValueError("patterns have labels, and no `label` says which a request has; give its expression")
        of, wrong = _sums(self.accepted)
        if of and proved(wrong, of, self.target) > self.delta:
            raise ValueError(
                f"{wrong} wrong of {of} accepted answers do not show that at most {self.target:g} are wrong; "
                "calibrate with more examples, or raise `target` or `delta`"
            )
        return self

    def row(self, label: str, pattern: str) -> Pattern | None:
        """Return the record of a pattern; None if no example of the label had it."""
        return next((one for one in self.patterns if (one.label, one.pattern) == (label, pattern)), None)

    def is_settled(self, label: str, groups: Groups, left: str) -> bool:
        """Return True if no answer of the members `left` changes the answer of the tier, or its acceptance."""
        if not left:
            return True
        if len(left) > _MOST_OPEN or not groups:
            return False
        chosen = largest(groups)[0]
        ends = list(_completed(list(groups), left))
        accepts = {(row := self.row(label, written(one))) is not None and row.accept for one in ends}
        return len(accepts) == 1 and all(chosen in largest(one) for one in ends)

    def flaw(self, label: str, groups: Groups, left: str) -> str:
        """Return the reason why answers are not accepted; empty if they are. Members `left` cannot change it."""
        row = self.row(label, written(next(_completed(list(groups), left))))
        of = f" of {label!r}" if label else ""
        if row is None:
            return f"the pattern {written(groups)}{of} is not among the examples"
        record = f"the pattern {row.pattern}{of} was right in {row.right} of {row.n} examples"
        return "" if row.accept else f"{record}, and is not accepted"

    @property
    def accepted(self) -> tuple[Pattern, ...]:
        """The accepted patterns."""
        return tuple(one for one in self.patterns if one.accept)


def written(groups: Iterable[str]) -> str:
    """Return groups as a pattern: letters in order, groups by their first letter."""
    return "|".join(sorted("".join(sorted(one)) for one in groups))


def largest(groups: Groups) -> str:
    """Return the largest group; the first of equally large ones."""
    return max(groups, key=lambda one: (len(one), [-ord(letter) for letter in sorted(one)]))


def learned_acceptance(
    seen: Sequence[Seen], *, target: float, delta: float, label: str | None = None
) -> LearnedAcceptance:
    """Return the patterns of examples, the most reliable ones accepted as far as `target` is shown to hold.

    One half of the examples, drawn by a fixed seed, orders the patterns by the share that was right. On the other
    half, the first one, the first two, … are tested together: "more than `target` of their answers are wrong" is
    rejected by the bound of Clopper and Pearson for `delta`. The first one that is not rejected ends the sequence
    (fixed-sequence testing, as in `calibrated`). The order does not depend on the half that tests it: the number of
    patterns needs no other correction. Sets so small that none could be rejected are not tested.

    Raises InputError if the target is shown for none.
    """
    check_shares(target, delta)
    if not seen:
        raise InputError("no examples to calibrate with; give labelled ones")
    drawn = random.Random(0).sample(range(len(seen)), len(seen))  # noqa: S311 - the same halves each time
    half = len(seen) // 2
    ordering, testing = ([seen[at] for at in part] for part in (drawn[:half], drawn[half:]))
    rows = {(one.label, one.pattern): one for one in _records(testing)}
    ranked = sorted(_records(ordering), key=_unreliability)
    order = [rows[key] for one in ranked if (key := (one.label, one.pattern)) in rows]
    least = math.ceil(math.log(delta) / math.log(1 - target))
    shown = _shown(order, target, delta, least)
    if not shown:
        raise InputError(
            f"no pattern keeps the wrong share at {target:g} on these {len(seen)} examples, of which one half orders "
            f"the patterns and the other tests them; even with no wrong answer, {least} of that half must have one. "
            "Give more examples, or raise `target` or `delta`"
        )
    accepted = {(one.label, one.pattern) for one in shown}
    marked = tuple(one.model_copy(update={"accept": key in accepted}) for key, one in sorted(rows.items()))
    return LearnedAcceptance(target=target, delta=delta, label=label, patterns=marked)


def _unreliability(one: Pattern) -> tuple[float, int, str, str]:
    """Return the place of a pattern in the order: by the share that was right, moved towards a half for few."""
    return -(one.right + 1) / (one.n + 2), -one.n, one.label, one.pattern


def _records(seen: Sequence[Seen]) -> list[Pattern]:
    """Return the record of each pattern of each label."""
    right: dict[tuple[str, str], list[bool]] = {}
    for one in seen:
        right.setdefault((one.label, one.pattern), []).append(one.right)
    return [
        Pattern(label=label, pattern=pattern, n=len(found), right=found.count(True))
        for (label, pattern), found in right.items()
    ]


def _sums(rows: Sequence[Pattern]) -> tuple[int, int]:
    """Return the number of examples with these patterns, and that of the wrong ones."""
    return sum(one.n for one in rows), sum(one.n - one.right for one in rows)


def _shown(order: Sequence[Pattern], target: float, delta: float, least: int) -> Sequence[Pattern]:
    """Return the most patterns, from the first on, that are shown to keep the target together."""
    shown: Sequence[Pattern] = ()
    for end in range(1, len(order) + 1):
        of, wrong = _sums(order[:end])
        if of < least:
            continue
        if proved(wrong, of, target) > delta:
            break
        shown = order[:end]
    return shown


def _completed(groups: list[str], left: str) -> Iterator[list[str]]:
    """Yield the groups for each possible answer of the members that are left."""
    if not left:
        yield groups
        return
    member, rest = left[0], left[1:]
    for at, one in enumerate(groups):
        yield from _completed([*groups[:at], one + member, *groups[at + 1 :]], rest)
    yield from _completed([*groups, member], rest)
