"""Meter: spaces units evenly in time."""

from typing import Final

_SLACK: Final = 0.01
"""Seconds by which a late unit may be made up for: the lateness of a timer."""


class Meter:
    """Admits `rate` units a second, evenly spaced, without bursts.

    The generic cell rate algorithm with a tolerance of a timer's lateness (ITU-T I.371, "virtual scheduling"). An
    amount larger than one unit pushes the next admission back by its size.
    """

    __slots__ = ("next", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.next = 0.0
        """The time of the next admission."""

    def delay(self, now: float, units: float = 1.0) -> float:
        """Return the seconds until an admission of so many units; 0 if it may be now."""
        return self.next - now if self.next > now else 0.0

    def take(self, now: float, units: float = 1.0) -> None:
        """Count an admission."""
        self.next = max(self.next, now - min(_SLACK, 0.5 / self.rate)) + units / self.rate

    def correct(self, units: float) -> None:
        """Count units that an admission took beyond its estimate; negative for fewer."""
        self.next += units / self.rate
