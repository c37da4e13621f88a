"""Patterns: which members of a tier gave equal answers, and how often the common answer was right."""

import math
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

    With probability 1 - `delta` over the choice of examples, of no accepted pattern more than the share `target` of
    the answers is wrong, if later requests are like the examples. Bounds are those of Clopper and Pearson, and the
    number of patterns is corrected for (Holm, Scandinavian Journal of Statistics 6, 1979).
    """

    target: float = Field(gt=0, lt=1, description="Share of accepted answers that may be wrong, by pattern.")
    delta: float = Field(gt=0, lt=1, description="Probability that a pattern has more.")
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
        shown = _shown(self.patterns, self.target, self.delta)
        for one in self.patterns:
            if one.accept and (one.label, one.pattern) not in shown:
                raise ValueError(
                    f"{one.n - one.right} wrong of {one.n} with the pattern {one.pattern!r} do not show that at most "
                    f"{self.target:g} are wrong; calibrate with more examples, or raise `target` or `delta`"
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
        return "" if row.accept else f"{record}, which does not show {self.target:g}"

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
    """Return the patterns of examples, accepted where at most the share `target` is shown to be wrong.

    Raises InputError if this is shown for none.
    """
    check_shares(target, delta)
    if not seen:
        raise InputError("no examples to calibrate with; give labelled ones")
    rows = []
    for key in sorted({(one.label, one.pattern) for one in seen}):
        right = [one.right for one in seen if (one.label, one.pattern) == key]
        rows.append(Pattern(label=key[0], pattern=key[1], n=len(right), right=right.count(True)))
    shown = _shown(rows, target, delta)
    if not shown:
        least = math.ceil(math.log(delta) / math.log(1 - target))
        raise InputError(
            f"no pattern keeps the wrong share at {target:g} on these {len(seen)} examples; even with no wrong "
            f"answer, {least} or more must have it. Give more examples, or raise `target` or `delta`"
        )
    marked = tuple(one.model_copy(update={"accept": (one.label, one.pattern) in shown}) for one in rows)
    return LearnedAcceptance(target=target, delta=delta, label=label, patterns=marked)


def _shown(rows: Sequence[Pattern], target: float, delta: float) -> set[tuple[str, str]]:
    """Return the patterns shown to keep the target, by the step-down test of Holm.

    Patterns so rare that they could never be shown are not tested: their number alone tells it.
    """
    tested = [one for one in rows if (1 - target) ** one.n <= delta]
    tested.sort(key=lambda one: proved(one.n - one.right, one.n, target))
    shown: set[tuple[str, str]] = set()
    for at, one in enumerate(tested):
        if proved(one.n - one.right, one.n, target) > delta / (len(tested) - at):
            break
        shown.add((one.label, one.pattern))
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
