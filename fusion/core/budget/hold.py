"""Hold: a part of a budget that is held back for later work."""

from fusion.core.budget.amounts import NOTHING, Amount, Tally
from fusion.core.budget.budget import Budget


class Hold(Budget):
    """An amount held back. Reservations draw on it first, and on the levels above for the excess.

    The unused part of a reservation returns to it, so that a retry can draw on it again.
    """

    covers = True

    def __init__(self, parent: Budget, pledge: Tally, name: str) -> None:
        super().__init__(name=name, parent=parent, clock=parent.clock)
        self.pledge = pledge
        self._released = False
        parent.book(NOTHING, pledge)
        for level in self._bearers():
            level.holds.append(self)
        self.line.look_through(self.levels)

    @property
    def pledged(self) -> Amount:
        """The whole amount held back, used or not."""
        return self.pledge.amount()

    def release(self) -> None:
        """Release the rest; from now on this is an ordinary level. A second call does nothing."""
        self._released = True
        self.pledge_anew(NOTHING)
        self.line.look_through(self.levels)

    def pledge_anew(self, pledge: Tally) -> None:
        """Hold this amount from now on, and book the difference above."""
        before = self.claim(self._reserved)
        self.pledge = pledge
        assert self.parent is not None
        self.parent.book(NOTHING, self.claim(self._reserved).minus(before))

    def free(self) -> Tally:
        """Return the part of the hold that no reservation at rest needs."""
        floor = self.floor()
        return self.claim(floor).minus(floor)

    def regain(self, part: Tally) -> None:
        """Hold a borrowed part again, as far as the levels above have room for it."""
        if not self._released:
            for level in self.above:
                part = level.fitting(part)
            self.pledge_anew(self.pledge.plus(part))

    def _bearers(self) -> list[Budget]:
        """Return the levels that count this hold: up to the next hold, whose claim covers it above."""
        bearers: list[Budget] = []
        for level in self.above:
            bearers.append(level)
            if isinstance(level, Hold):
                break
        return bearers

    def claim(self, reserved: Tally) -> Tally:
        """Return the amount reserved above for this hold, with `reserved` reserved in it."""
        return self.pledge.minus(self._spent).at_least(reserved)

    def enter(self, spent: Tally, reserved: Tally) -> Tally:
        before = self.claim(self._reserved)
        super().enter(spent, reserved)
        return self.claim(self._reserved).minus(before)

    def beyond(self, need: Tally, reserved: Tally) -> Tally:
        return self.claim(reserved.plus(need)).minus(self.claim(reserved))
