"""Graph: the stages of a pipeline in layers, and the lines between them, ready to draw."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from fusion.pipeline.diagram import draw
from fusion.pipeline.loader import LoadedPipeline

_Place = tuple[int, str]
"""A layer, and a stage in it or a line that passes through."""
_Link = tuple[str, str]


def graph_of(loaded: LoadedPipeline) -> dict[str, Any]:
    """Return `nodes` and `edges` with their places: `x` counts layers from 0, `y` rows from the middle."""
    drawn = json.loads(draw(loaded.pipeline, loaded.prompts, "json"))
    levels = {stage["name"]: stage["level"] - 1 for stage in drawn["stages"]}
    links = _links(drawn["edges"])
    shown = {link: flows for link, flows in links.items() if flows or not _is_implied(link, links)}
    rows = _rows(levels, shown)
    read = {stage for one in drawn["output"].values() for stage in one["stages"]}
    return {
        "nodes": [
            {
                "name": stage["name"],
                "kind": stage["kind"],
                "roles": stage["roles"],
                "output": stage["name"] in read,
                "x": levels[stage["name"]],
                "y": rows[levels[stage["name"]], stage["name"]],
            }
            for stage in drawn["stages"]
        ],
        "edges": [
            {"from": a, "to": b, "flows": flows, "points": [[x, rows[x, name]] for x, name in _way((a, b), levels)]}
            for (a, b), flows in shown.items()
        ],
    }


def _links(edges: Iterable[Mapping[str, Any]]) -> dict[_Link, bool]:
    """Return pairs of stages, with True where a field flows item by item."""
    links: dict[_Link, bool] = {}
    for edge in edges:
        link = edge["source"], edge["target"]
        links[link] = links.get(link, False) or edge["flows"]
    return links


def _is_implied(link: _Link, links: Iterable[_Link]) -> bool:
    """Return True if other links lead the same way."""
    after: defaultdict[str, set[str]] = defaultdict(set)
    for a, b in links:
        if (a, b) != link:
            after[a].add(b)
    seen, left = {link[0]}, [link[0]]
    while left:
        found = after[left.pop()] - seen
        seen |= found
        left += found
    return link[1] in seen


def _way(link: _Link, levels: Mapping[str, int]) -> list[_Place]:
    """Return the places that a link passes: one in each layer from its source to its target."""
    a, b = link
    between: list[_Place] = [(layer, f"{a} {b}") for layer in range(levels[a] + 1, levels[b])]
    return [(levels[a], a), *between, (levels[b], b)]


def _rows(levels: Mapping[str, int], links: Iterable[_Link]) -> dict[_Place, float]:
    """Return the row of each place. A layer is ordered by the mean row of what leads to it."""
    layers: defaultdict[int, dict[_Place, list[_Place]]] = defaultdict(dict)
    for name, level in levels.items():
        layers[level].setdefault((level, name), [])
    for link in links:
        way = _way(link, levels)
        for before, place in pairwise(way):
            layers[place[0]].setdefault(place, []).append(before)
    rows: dict[_Place, float] = {}
    for layer in sorted(layers):
        rows |= _centred(_ordered(layers[layer], rows))
    return rows


def _ordered(places: Mapping[_Place, Sequence[_Place]], rows: Mapping[_Place, float]) -> list[_Place]:
    means = {place: sum(rows[one] for one in before) / len(before) for place, before in places.items() if before}
    return sorted(places, key=lambda place: means.get(place, 0.0))


def _centred(places: Sequence[_Place]) -> dict[_Place, float]:
    middle = (len(places) - 1) / 2
    return {place: at - middle for at, place in enumerate(places)}
