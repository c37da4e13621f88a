"""Learned figures: the accuracy, cost and agreement of models on labelled items, kept on this machine."""

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from fusion.core.config import Settings
from fusion.core.errors import UsageError, close_names
from fusion.core.paths import read_bytes
from fusion.core.schema.strict_json import loaded
from fusion.core.statistics import quantile, wilson
from fusion.core.types import Money, Value

CostSource = Literal["measured", "estimated", "simulated", "unknown"]
"""Origin of a cost: tokens that the provider measured, tokens estimated here, or a made-up price."""

FILE: Final = "learned.json"
MOST_LABELS: Final = 100
MOST_MODELS: Final = 50
"""The most labels, and the most models of a label; the ones measured longest ago are left out."""
_MOST_NAME: Final = 200
_LARGEST: Final = 64_000_000
_SOURCES: Final[tuple[CostSource, ...]] = ("unknown", "simulated", "estimated", "measured")
_RECORDED: Final = "replay:"


class Answered(NamedTuple):
    """The answer of a model to one item.

    `score` is from 0 to 1, `usd` its cost, None if unknown, `seconds` its latency, if it was timed. Answers with the
    same `key` are equal; one without a key equals none.
    """

    score: float
    usd: Decimal | None = None
    seconds: float | None = None
    key: str | None = None
    cost: CostSource = "measured"


Answers = Mapping[str, Mapping[str, Answered]]
"""Answers by model and item."""


class Figures(Value):
    """Figures of a model on the items of a label. `right` is the sum of their scores, `usd` the cost of an item.

    `seconds` is the median latency. `run` names the suite that measured them.
    """

    n: int = Field(ge=1)
    right: float = Field(ge=0)
    usd: Money | None = Field(default=None, ge=0)
    cost: CostSource = "unknown"
    seconds: float | None = Field(default=None, ge=0)
    day: date
    run: str = ""

    @model_validator(mode="after")
    def _fits(self) -> "Figures":
        if self.right > self.n + 1e-9:
            raise ValueError(f"{self.right:g} right of {self.n} is impossible")
        return self

    @property
    def accuracy(self) -> float:
        return min(1.0, self.right / self.n)

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95% interval of the accuracy (Wilson)."""
        return wilson(self.right, self.n)

    @property
    def words(self) -> str:
        """The figures in words: `92.0% of 120 right (85.7 to 95.6), $0.000410 an item, 2026-11-30`."""
        low, high = self.interval
        usd = "cost unknown" if self.usd is None else f"${self.usd:.6f} an item"
        share = f"{100 * self.accuracy:.1f}% of {self.n:,} right ({100 * low:.1f} to {100 * high:.1f})"
        return f"{share}, {usd}, {self.day}"

    @property
    def values(self) -> dict[str, Any]:
        """The figures as expressions read them: numbers alone; NaN for an unknown one."""
        low, high = self.interval
        unknown = float("nan")
        usd = unknown if self.usd is None else float(self.usd)
        seconds = unknown if self.seconds is None else self.seconds
        return {"accuracy": self.accuracy, "low": low, "high": high, "usd": usd, "seconds": seconds, "n": self.n}


UNKNOWN: Final = {**dict.fromkeys(("accuracy", "low", "high", "usd", "seconds"), float("nan")), "n": 0}
"""Figures that were never measured, as expressions read them: no comparison with them is true."""


class Agreement(Value):
    """The number of items to which two models gave equal answers, of those that both have answered."""

    models: tuple[str, str]
    n: int = Field(ge=1)
    equal: int = Field(ge=0)
    day: date

    @property
    def share(self) -> float:
        return self.equal / self.n


class Lessons(Value):
    """Figures of one label: by model, and the agreement of each two of them."""

    models: dict[str, Figures] = Field(default={}, max_length=MOST_MODELS)
    agreements: tuple[Agreement, ...] = Field(default=(), max_length=MOST_MODELS * MOST_MODELS)

    def agreement(self, one: str, other: str) -> Agreement | None:
        """Return the agreement of two models, if both have answered the same items."""
        pair = _pair(one, other)
        return next((found for found in self.agreements if found.models == pair), None)

    @property
    def day(self) -> date:
        """The day of the latest measurement."""
        return max((one.day for one in self.models.values()), default=date.min)


class Learned(Value):
    """The learned figures of this machine, by label."""

    version: Literal[1] = 1
    labels: dict[str, Lessons] = Field(default={}, max_length=MOST_LABELS)

    def figures(self, label: str, model: str) -> Figures | None:
        """Return the figures of a model on a label, if it was measured."""
        found = self.labels.get(label)
        return None if found is None else found.models.get(model_name(model))

    def of(self, models: Collection[str]) -> "Learned":
        """Return the figures of these models alone, on the labels that have any."""
        wanted = {model_name(model) for model in models}
        kept = {label: one.model_copy(update=_only(one, wanted)) for label, one in self.labels.items()}
        return Learned(labels={label: one for label, one in kept.items() if one.models})


def learned_file(settings: Settings) -> Path:
    """Return the file of learned figures: beside the store of runs."""
    return settings.store.path.parent / FILE


def model_name(model: str) -> str:
    """Return the name under which a model is kept: a recorded one without the folder of its file."""
    if not model.startswith(_RECORDED):
        return model
    place, _, name = model.removeprefix(_RECORDED).rpartition("#")
    return f"{_RECORDED}{Path(place).name}#{name}"


def read_learned(path: Path) -> Learned:
    """Return the learned figures of a file; none if it does not exist. Raises UsageError for a damaged file."""
    if not path.exists():
        return Learned()
    raw = read_bytes(path, most=_LARGEST, what="file of learned figures", then=_KEPT)
    try:
        return Learned.model_validate(loaded(raw.decode("utf-8")))
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        said = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{str(path)!r} is damaged: {where}: {said}{_KEPT}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{str(path)!r} is damaged: invalid JSON: {error}{_KEPT}") from error


_KEPT: Final = "; it is not overwritten: repair it, or remove it to begin anew"


def keep_learned(path: Path, answers: Mapping[str, Answers], *, run: str = "", day: date | None = None) -> None:
    """Add the figures of answers, given by label, model and item, to a file of learned figures.

    Of two measurements of a model on a label, or of the agreement of two models, the one with more items is kept; of
    two with as many items, the later one. They are not added up, since they may be of the same items. Several
    processes may call this at once. Raises UsageError for a damaged file, or one that cannot be written.
    """
    today = day or datetime.now(UTC).date()
    fresh = {label: _lessons(given, run, today) for label, given in answers.items()}
    with _changing(path) as learned:
        for label, lessons in fresh.items():
            if lessons.models:
                learned[_short(label)] = _merged(learned.get(_short(label), Lessons()), lessons)


def forget_learned(path: Path, *, label: str | None = None, model: str | None = None) -> int:
    """Remove the figures of a label, of a model, or of a model on a label. Returns the number of removed figures.

    Raises UsageError if there is none of this name.
    """
    with _changing(path) as learned:
        _check_known(learned, label, model)
        removed = 0
        for name in [label] if label is not None else list(learned):
            lessons = learned.pop(name)
            out = set(lessons.models) if model is None else {model} & set(lessons.models)
            removed += len(out)
            left = lessons.model_copy(update=_only(lessons, set(lessons.models) - out))
            if left.models:
                learned[name] = left
        if not removed:
            raise UsageError(f"no learned figures of {model!r} on {label!r}")
    return removed


def check_known(learned: Learned, *, label: str | None = None, model: str | None = None) -> None:
    """Raise UsageError for a label or a model without any figures, with the nearest names."""
    _check_known(learned.labels, label, model)


def _check_known(labels: Mapping[str, Lessons], label: str | None, model: str | None) -> None:
    models = {name for lessons in labels.values() for name in lessons.models}
    for what, name, known in (("label", label, labels), ("model", model, models)):
        if name is not None and name not in known:
            raise UsageError(f"no learned figures of the {what} {name!r}{close_names(name, known)}")


def _lessons(answers: Answers, run: str, day: date) -> Lessons:
    """Return the figures of the models that have answered, and the agreement of each two of them."""
    given = {_short(model_name(model)): items for model, items in answers.items() if items}
    models = {model: _figures(list(items.values()), run, day) for model, items in given.items()}
    agreements = [_agreement(one, other, given, day) for one, other in combinations(sorted(given), 2)]
    known = tuple(one for one in agreements if one is not None)
    return Lessons.model_construct(models=models, agreements=known)  # its size is bounded when it is merged


def _figures(answers: list[Answered], run: str, day: date) -> Figures:
    costs = [one.usd for one in answers if one.usd is not None]
    known = len(costs) == len(answers)
    seconds = [one.seconds for one in answers if one.seconds]
    return Figures(
        n=len(answers),
        right=round(sum(one.score for one in answers), 6),
        usd=sum(costs, Decimal(0)) / len(costs) if known else None,
        cost=min((one.cost for one in answers), key=_SOURCES.index) if known else "unknown",
        seconds=quantile(seconds, 0.5) if seconds else None,
        day=day,
        run=run[:_MOST_NAME],
    )


def _agreement(one: str, other: str, given: Answers, day: date) -> Agreement | None:
    """Return the agreement of two models; None if no answer of one of them can be compared."""
    both = given[one].keys() & given[other].keys()
    keys = [(given[one][item].key, given[other][item].key) for item in both]
    if not all(any(pair[at] is not None for pair in keys) for at in (0, 1)):
        return None
    equal = sum(first is not None and first == second for first, second in keys)
    return Agreement(models=_pair(one, other), n=len(keys), equal=equal, day=day)


def _merged(old: Lessons, new: Lessons) -> Lessons:
    models = {**old.models}
    for name, figures in new.models.items():
        if name not in models or figures.n >= models[name].n:
            models[name] = figures
    agreements = {one.models: one for one in old.agreements}
    for one in new.agreements:
        if one.models not in agreements or one.n >= agreements[one.models].n:
            agreements[one.models] = one
    latest = sorted(models, key=lambda name: models[name].day, reverse=True)[:MOST_MODELS]
    whole = Lessons.model_construct(models=models, agreements=tuple(agreements.values()))
    return whole.model_copy(update=_only(whole, set(latest)))


def _only(lessons: Lessons, models: Collection[str]) -> dict[str, Any]:
    """Return the fields of the figures of these models alone, in the order of their names."""
    kept = {name: lessons.models[name] for name in sorted(lessons.models) if name in models}
    pairs = [one for one in lessons.agreements if set(one.models) <= set(models)]
    return {"models": kept, "agreements": tuple(sorted(pairs, key=lambda one: one.models))}


def _pair(one: str, other: str) -> tuple[str, str]:
    first, second = sorted((model_name(one), model_name(other)))
    return first, second


def _short(name: str) -> str:
    return name[:_MOST_NAME]


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, Lessons]]:
    """Yield the labels of the file to change them, under its lock; then replace the file. Raises UsageError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        labels = dict(read_learned(path).labels)
        yield labels
        latest = sorted(labels, key=lambda name: labels[name].day, reverse=True)[:MOST_LABELS]
        _replace(path, Learned(labels={name: labels[name] for name in sorted(latest)}))
    finally:
        os.close(lock)


def _replace(path: Path, learned: Learned) -> None:
    text = json.dumps(learned.model_dump(mode="json"), ensure_ascii=False)
    import tempfile  # takes 5 ms to load, and a run needs none of it

    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}") from error
