"""Labels: places for the names of points, so that they cover neither one another nor a point."""

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from fusion.bench.report.figures import Figures

_RADII: Final = (6, 10, 16, 24, 34, 46, 60, 76, 94)
"""Distances of a label to its point, in points of a letter; the first free one is taken."""
_DIRECTIONS: Final = tuple(math.pi * k / 8 for k in (0, 8, 2, 14, 6, 10, 4, 12, 1, 15, 7, 9, 3, 13, 5, 11))
_GAP: Final = 1.5
"""The least gap between two labels, in points of a letter."""
_COVERED: Final = 50.0
_CROSSED: Final = 0.4
_OUTSIDE: Final = 1e6


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    low: float
    right: float
    high: float

    def overlap(self, other: "Box", gap: float = 0.0) -> float:
        """Return the area in square pixels that two rectangles share, the second one grown by `gap`."""
        width = min(self.right, other.right + gap) - max(self.left, other.left - gap)
        height = min(self.high, other.high + gap) - max(self.low, other.low - gap)
        return max(0.0, width) * max(0.0, height)

    def holds(self, other: "Box") -> bool:
        """Return True if the other rectangle is inside of this one."""
        return (
            self.left <= other.left
            and self.low <= other.low
            and other.right <= self.right
            and other.high <= self.high
        )


class Label(NamedTuple):
    """The name of an arm: its text, the pixel of its point, and its size in pixels."""

    of: Figures
    text: str
    x: float
    y: float
    width: float
    height: float


class Place(NamedTuple):
    """The box of a label, and its distance to the point in pixels."""

    box: Box
    distance: float


def placed(
    labels: Sequence[Label], points: Sequence[Box], lines: Sequence[Box], inside: Box, scale: float
) -> list[Place]:
    """Return a place for each label, in their order; `scale` is the pixels of a letter's point.

    A label takes the place that covers least: no other label and no point if there is such a place, then as little as
    possible of the lines, then the nearest.
    """
    found: list[Place] = []
    for label in labels:
        taken = [place.box for place in found]
        found.append(
            min(
                _places(label, scale),
                key=lambda place: (
                    _COVERED * sum(place.box.overlap(box, _GAP * scale) for box in (*taken, *points))
                    + _CROSSED * sum(place.box.overlap(box) for box in lines)
                    + (0 if inside.holds(place.box) else _OUTSIDE)
                    + place.distance / scale
                ),
            )
        )
    return found


def _places(label: Label, scale: float) -> Iterator[Place]:
    """Yield the boxes around a point, from near to far."""
    for radius in _RADII:
        for angle in _DIRECTIONS:
            across, up = math.cos(angle), math.sin(angle)
            x = label.x + across * radius * scale + (across - 1) / 2 * label.width
            y = label.y + up * radius * scale + (up - 1) / 2 * label.height
            yield Place(Box(x, y, x + label.width, y + label.height), radius * scale)
