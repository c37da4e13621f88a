"""Terms: the part of a leased level in which an attempt was reserved."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from fusion.core.budget.accounts import Account, Standing
from fusion.core.budget.amounts import NOTHING, Amount, Caps, Tally

if TYPE_CHECKING:
    from fusion.core.budget.leased import Leased


class Term(Protocol):
    """Part of a leased level that counts an attempt, once the level has booked its end."""

    def end(self, actual: Amount | None) -> "tuple[PeriodTerm, Tally]":
        """Take in the end of the attempt; None for one that costs nothing. Return what counts, and the term of it."""


class PeriodTerm:
    """The spending of a level in one period of its account. An attempt counts in that where it was reserved.

    `held` is the amount up to which it may spend, `flying` the number of its attempts in flight. It is `asked` once a
    bid was sent, `opened` once one was answered.
    """

    __slots__ = ("account", "asked", "flying", "held", "level", "opened", "reported", "spent", "standing")

    def __init__(self, level: "Leased", account: Account) -> None:
        self.level = level
        self.account = account
        self.spent = Tally()
        self.held = Tally()
        self.reported = Tally()
        self.flying = 0
        self.asked = self.opened = False
        self.standing: Standing | None = None

    def end(self, actual: Amount | None) -> "tuple[PeriodTerm, Tally]":
        known = NOTHING if actual is None else Tally.of(actual)
        self.flying -= 1
        if self.level.term is not self:
            self.level.end_late(self, known)
        return self, known

    def take(self, spent: Amount, standing: Standing) -> None:
        """Take in the answer to a bid that reported `spent`."""
        self.opened = True
        self.standing = standing
        self.reported = Tally.of(spent)
        self.held = self.reported.plus(Tally.of(standing.open))

    @property
    def left(self) -> Caps | None:
        """Amount left for this process, as of the last exchange; None before one."""
        return None if self.standing is None else self.level.left_of(self, self.standing)


class JoinedTerm:
    """An attempt of an earlier session, which the account counts with its worst case already.

    The level reserves nothing for it, and counts only what it costs beyond the worst case.
    """

    __slots__ = ("_aside", "_level", "_worst")

    def __init__(self, level: "Leased", worst: Amount, aside: Tally) -> None:
        self._level = level
        self._worst = Tally.of(worst)
        self._aside = aside

    def end(self, actual: Amount | None) -> tuple[PeriodTerm, Tally]:
        known = NOTHING if actual is None else Tally.of(actual)
        counted = known.at_most(self._worst)
        self._level.set_aside(NOTHING.minus(self._aside), counted)
        return self._level.term, known.minus(counted)


class Draws:
    """Amounts that one level has spent of accounts, by term."""

    def __init__(self) -> None:
        self._spent: dict[PeriodTerm, Tally] = {}

    def take(self, term: PeriodTerm, amount: Tally) -> None:
        self._spent.setdefault(term, Tally()).add(amount)

    def __iter__(self) -> Iterator[tuple[PeriodTerm, Tally]]:
        return iter(self._spent.items())


def end_all(terms: Iterable[Term], actual: Amount, draws: Iterable[Draws]) -> None:
    """End an attempt in all its terms, and take what counts in each up in `draws`."""
    ended = [term.end(actual) for term in terms]
    for one in draws:
        for term, counted in ended:
            one.take(term, counted)
