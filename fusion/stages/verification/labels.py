"""Labels: answers to one request in a seeded order, under labels that reveal neither model nor place."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from fusion.core.types import Item
from fusion.stages.context import StageContext

MOST_LABELS = len(ascii_uppercase)


def shuffled(count: int, seed: str) -> list[int]:
    """Return the numbers below `count` in an order that depends on the seed alone."""
    return sorted(range(count), key=lambda number: hashlib.sha256(f"{seed} {number}".encode()).digest())


def labels(count: int) -> list[str]:
    """Return `count` labels: letters if there are enough, else numbers."""
    return list(ascii_uppercase[:count]) if count <= MOST_LABELS else [str(n) for n in range(1, count + 1)]


def labelled(items: Sequence[Item], seed: str) -> list[Item]:
    """Return the answers in the order of their labels; unlabelled ones are shuffled and labelled."""
    if all(_label(item) for item in items):
        return sorted(items, key=lambda item: item.index)
    order = shuffled(len(items), seed)
    given = zip(labels(len(items)), order, strict=True)
    return [_under(label, items[place]) for label, place in given]


async def followed(ctx: StageContext, source: str) -> tuple[list[Item], list[Item]]:
    """Return the usable answers under their labels, and the failed ones."""
    came = [item async for item in ctx.inputs.follow(source)]
    return labelled([item for item in came if item.ok], ctx.seed), [item for item in came if not item.ok]


def renamed(analysis: Any, answers: Sequence[Item]) -> Any:
    """Return an analysis with the names of models in place of the labels of their answers."""
    return _swapped(analysis, _names(answers))


def relabelled(analysis: Any, answers: Sequence[Item]) -> Any:
    """Return an analysis with the labels of answers in place of the names of their models."""
    return _swapped(analysis, {name: label for label, name in _names(answers).items()})


def _label(item: Item) -> str | None:
    return item.source.get("label") if isinstance(item.source, Mapping) else None


def _under(label: str, item: Item) -> Item:
    return item.model_copy(update={"source": {"label": label}})


def _names(answers: Iterable[Item]) -> dict[str, str]:
    """Return the model of each label; several answers of one model keep their labels in parentheses."""
    by = {str(_label(answer)): answer.by for answer in answers}
    often = Counter(by.values())
    return {
        label: label if model is None else model if often[model] == 1 else f"{model} ({label})"
        for label, model in by.items()
    }


def _swapped(data: Any, names: Mapping[str, str]) -> Any:
    """Return the data with other names under the keys `model` and `models`, at any depth."""
    if isinstance(data, list):
        return [_swapped(one, names) for one in data]
    if not isinstance(data, Mapping):
        return data
    swapped = {key: _swapped(value, names) for key, value in data.items()}
    if isinstance(data.get("model"), str):
        swapped["model"] = names.get(data["model"], data["model"])
    if isinstance(data.get("models"), list):
        swapped["models"] = [names.get(one, one) if isinstance(one, str) else one for one in data["models"]]
    return swapped
