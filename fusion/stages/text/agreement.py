"""Agreement: the largest group of equal answers, and the point from which no other answer changes it."""

from collections.abc import Sequence

from fusion.stages.text.extract import Extracted, Extractor


def groups_of(found: Sequence[Extracted | None], extractor: Extractor) -> list[list[int]]:
    """Return the places of equal answers, a list for each group, by their first members; unread ones are left out."""
    groups: dict[int, list[int]] = {}
    for place, group in enumerate(extractor.groups(found)):
        if group is not None:
            groups.setdefault(group, []).append(place)
    return list(groups.values())


def largest(groups: Sequence[list[int]]) -> list[int]:
    """Return the largest group, the first of equal ones; empty if there is none."""
    return max(groups, key=len, default=[])


def is_decided(groups: Sequence[list[int]], left: int) -> bool:
    """Return True if so many further answers leave the largest group the largest, whatever they say."""
    sizes = sorted(map(len, groups), reverse=True)
    second = sizes[1] if len(sizes) > 1 else 0
    return not left or (bool(sizes) and sizes[0] > second + left)
