"""Task sets: items with their prompts, and the gold answers apart, which no arm sees."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fusion.core.errors import UsageError, close_names
from fusion.core.types import Value
from fusion.pipeline.rows import Row, read_rows
from fusion.prompts.library import Library
from fusion.prompts.template import Prompts, Template

_SHOWN = 5

Side = Literal["dev", "test"]
Split = Literal["dev", "test", "all"]


class Task(Value):
    """The input of an arm: prompt and inputs of an item. `cluster` names its group, such as a document.

    `side` is set where the author gives the side of the split.
    """

    id: str
    prompt: str
    inputs: dict[str, Any] = Field(default_factory=dict)
    cluster: str | None = None
    side: Side | None = None


class Join(Value):
    """Long contexts from short ones: adds documents of other rows, drawn and mixed by hash.

    As in Liu et al. 2023, arXiv:2307.03172. A template reads them as `documents`.
    """

    column: str = Field(description="The column that holds a list of documents.")
    n: int = Field(ge=1, le=1000, description="The number of documents of each item.")


class Fields(Value):
    """The roles of the columns of a file."""

    id: str | None = Field(
        default=None, description="The column of ids; by default `id` or a similar name, else items are numbered."
    )
    prompt: str = Field(
        default="prompt",
        description="The column of prompts, or a template over columns other than gold; by default a usual name.",
    )
    gold: str | tuple[str, ...] = Field(
        default="gold",
        description="The column of gold answers, or several for a mapping of them; by default a usual name.",
    )
    item_gold: str | None = Field(
        default=None,
        description="The column with the right values of the items that a stage reviews: a list in their order.",
    )
    cluster: str | None = Field(
        default=None, description="The column with the group of an item, such as its document."
    )
    inputs: tuple[str, ...] | dict[str, str] = Field(
        default=(),
        description="Further columns, for the inputs of the same names of a pipeline; or columns by input, as in"
        " {context: document}.",
    )
    join: Join | None = Field(default=None, description="Long contexts, by joining documents of other items.")

    @property
    def columns(self) -> dict[str, str]:
        """The columns of further inputs, by input."""
        return self.inputs if isinstance(self.inputs, dict) else {name: name for name in self.inputs}

    @property
    def golds(self) -> tuple[str, ...]:
        """The columns of gold answers and of gold items, which no prompt reads."""
        whole = (self.gold,) if isinstance(self.gold, str) else self.gold
        return whole if self.item_gold is None else tuple(dict.fromkeys((*whole, self.item_gold)))

    @property
    def template(self) -> str | None:
        """The template of the prompts; None if a column holds them."""
        return self.prompt if "{{" in self.prompt else None


class TaskSet(Value):
    """Tasks in the order of their file, the gold answers and the gold items by id, and the SHA-256 of the file."""

    name: str
    tasks: tuple[Task, ...]
    gold: dict[str, Any] = Field(repr=False)
    items: dict[str, list[Any]] = Field(default_factory=dict, repr=False)
    sha256: str

    def only(self, split: Split, *, dev_share: float = 0.5, seed: int = 0) -> "TaskSet":
        """Return the tasks of one side of the split, which depends only on their ids, the share and the seed."""
        if split == "all":
            return self
        return self._kept(lambda task: split_of(task, dev_share=dev_share, seed=seed) == split)

    def sample(self, n: int, *, seed: int = 0) -> "TaskSet":
        """Return at most n tasks, drawn by hash, in the order of the file."""
        drawn = {task.id for task in sorted(self.tasks, key=lambda task: _share(task.id, f"sample {seed}"))[:n]}
        return self._kept(lambda task: task.id in drawn)

    def with_test_items(self, other: "TaskSet", *, file: str) -> "TaskSet":
        """Return these tasks as the dev side, and those of another file as the test side.

        Raises UsageError for items of the other `file` that are here too.
        """
        _check_apart(self.tasks, other.tasks, file)
        renamed = {task.id: f"{file}/{task.id}" if task.id in self.gold else task.id for task in other.tasks}
        tasks = (
            *(task.model_copy(update={"side": "dev"}) for task in self.tasks),
            *(task.model_copy(update={"side": "test", "id": renamed[task.id]}) for task in other.tasks),
        )
        gold = {**self.gold, **{renamed[item]: one for item, one in other.gold.items()}}
        sha256 = hashlib.sha256(f"{self.sha256} {other.sha256}".encode()).hexdigest()
        items = {**self.items, **{renamed[item]: one for item, one in other.items.items()}}
        return TaskSet(name=self.name, tasks=tasks, gold=gold, items=items, sha256=sha256)

    def _kept(self, wanted: Callable[[Task], bool]) -> "TaskSet":
        tasks = tuple(task for task in self.tasks if wanted(task))
        return self.model_copy(update={"tasks": tasks, "gold": {task.id: self.gold[task.id] for task in tasks}})


# Splits: all tasks of a cluster are on one side.


def split_of(task: Task, *, dev_share: float = 0.5, seed: int = 0) -> Side:
    """Return the side of a task: its own, or by the hash of its cluster or id."""
    if task.side is not None:
        return task.side
    return "dev" if _share(task.cluster or task.id, f"split {seed}") < dev_share else "test"


def _check_apart(dev: Iterable[Task], test: Iterable[Task], file: str) -> None:
    """Raise UsageError for a prompt or a cluster on both sides."""
    prompts = {(task.prompt, repr(task.inputs)) for task in dev}
    clusters = {task.cluster for task in dev} - {None}
    same = [task.id for task in test if (task.prompt, repr(task.inputs)) in prompts]
    shared = list(dict.fromkeys(task.cluster for task in test if task.cluster in clusters))
    for what, found in (("item", same), ("group", shared)):
        if found:
            raise UsageError(
                f"{file}: the {_listed(what, found)} {'is' if len(found) == 1 else 'are'} among the items to choose "
                "by too; a choice is confirmed on other items: remove them from one of the files"
            )


def folds(tasks: Iterable[Task], k: int, *, seed: int = 0) -> dict[str, int]:
    """Return the fold of each task by id, from 0 to k - 1. Clusters are dealt out in the order of their hashes."""
    clusters = {task.id: task.cluster or task.id for task in tasks}
    names = sorted(set(clusters.values()), key=lambda name: _share(name, f"fold {seed}"))
    if not 2 <= k <= len(names):
        raise UsageError(f"{k} folds of {len(names)} independent items; give from 2 to {len(names)}")
    dealt = {name: index % k for index, name in enumerate(names)}
    return {item: dealt[name] for item, name in clusters.items()}


def _share(name: str, salt: str) -> float:
    """Return a hash of a name, from 0 to below 1."""
    digest = hashlib.sha256(f"{salt}\0{name}".encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


# Reading.


def read_tasks(
    path: Path | str, fields: Fields | None = None, *, name: str | None = None, side: str | None = None
) -> TaskSet:
    """Read a CSV, JSONL or JSON file, plain or packed. Raises UsageError with every mistake in it.

    `side` is the column with the side of each item.
    """
    rows, sha256 = read_rows(path)
    stem = Path(path).name.partition(".")[0]
    return make_tasks(
        rows,
        _with_defaults(rows, fields or Fields(), str(path)),
        name=name or stem,
        file=str(path),
        sha256=sha256,
        side=side,
    )


def make_tasks(
    rows: Sequence[Row], fields: Fields, *, name: str, file: str, sha256: str, side: str | None = None
) -> TaskSet:
    """Return rows as a task set. Raises UsageError with all duplicate ids, empty prompts and missing gold answers."""
    _check(rows, fields, file, side)
    tasks = tuple(
        Task(
            id=str(row[fields.id]) if fields.id else f"{index}",
            prompt=prompt,
            inputs={name: row[column] for name, column in fields.columns.items()},
            cluster=str(row[fields.cluster]) if fields.cluster else None,
            side=None if side is None else row[side],
        )
        for index, (row, prompt) in enumerate(zip(rows, _prompts(rows, fields), strict=True), start=1)
    )
    gold = {
        task.id: row[fields.gold] if isinstance(fields.gold, str) else {name: row[name] for name in fields.gold}
        for task, row in zip(tasks, rows, strict=True)
    }
    items = (
        {task.id: row[fields.item_gold] for task, row in zip(tasks, rows, strict=True)} if fields.item_gold else {}
    )
    return TaskSet(name=name, tasks=tasks, gold=gold, items=items, sha256=sha256)


def _prompts(rows: Sequence[Row], fields: Fields) -> Iterator[str]:
    if fields.template is None:
        yield from (str(row[fields.prompt]) for row in rows)
        return
    template = _compiled(fields.template)
    for index, row in enumerate(rows):
        seen = {name: value for name, value in row.items() if name not in fields.golds}
        if fields.join is not None:
            seen["documents"] = _joined(rows, index, fields.join)
        yield template.render_text(seen).strip()


def _compiled(template: str) -> Template:
    return Prompts(Library([])).template(template)


def _joined(rows: Sequence[Row], index: int, join: Join) -> list[Any]:
    """Return the documents of a row and of others, in an order of this row's own."""
    own = list(rows[index][join.column])
    draw = random.Random(f"join {index}")  # noqa: S311 - the same documents each time
    others = draw.sample([n for n in range(len(rows)) if n != index], min(len(rows) - 1, join.n))
    more = [document for n in others for document in rows[n][join.column] if document not in own]
    documents = [*own, *more[: max(0, join.n - len(own))]]
    draw.shuffle(documents)
    return documents


# Columns and their mistakes.

_PROMPTS = ("prompt", "question", "input", "task", "text")
_GOLDS = ("gold", "answer", "answers", "target", "output", "expected", "label", "reference")
_IDS = ("id", "task_id", "key", "_id")


def _with_defaults(rows: Sequence[Row], fields: Fields, file: str) -> Fields:
    """Return the fields, completed with the usual names of columns."""
    columns = list(rows[0])
    found: dict[str, str] = {}
    for field, what, usual in (("prompt", "prompt", _PROMPTS), ("gold", "gold answer", _GOLDS), ("id", "", _IDS)):
        column = next((name for name in usual if name in columns), None)
        if field in fields.model_fields_set:
            continue
        if column is not None:
            found[field] = column
        elif what:
            raise UsageError(f"{file}: no column for the {what}: {', '.join(usual)}; name it; there are: {columns}")
    return fields.model_copy(update=found)


def _check(rows: Sequence[Row], fields: Fields, file: str, side: str | None) -> None:
    found = [
        *_missing_columns(rows, fields),
        *_missing_values(rows, fields),
        *_wrong_lists(rows, fields),
        *_duplicates(rows, fields),
    ]
    found += [] if side is None else _wrong_sides(rows, side, fields.cluster)
    if found:
        raise UsageError("\n".join(f"{file}: {mistake}" for mistake in found))


def _missing_columns(rows: Sequence[Row], fields: Fields) -> Iterator[str]:
    known = {name for row in rows for name in row}
    seen = [*_read_by_prompt(fields), *fields.columns.values(), *filter(None, (fields.id, fields.cluster))]
    joined = [fields.join.column] if fields.join else []
    for name in dict.fromkeys([*seen, *fields.golds, *joined]):
        if name not in known:
            yield f"no column {name!r}{close_names(name, known)}"
        elif name in fields.golds and name in seen:
            yield f"the column {name!r} is the gold answer and may be nothing else"


def _read_by_prompt(fields: Fields) -> set[str]:
    """Return the columns that the prompt reads."""
    if fields.template is None:
        return {fields.prompt}
    return {path[0] for path in _compiled(fields.template).paths} - ({"documents"} if fields.join else set())


def _missing_values(rows: Sequence[Row], fields: Fields) -> Iterator[str]:
    known = {name for row in rows for name in row}
    named = [("id", fields.id), ("prompt", fields.prompt), *(("gold answer", name) for name in fields.golds)]
    for what, name in named:
        empty = [index + 1 for index, row in enumerate(rows) if name in known and _is_empty(row.get(name))]
        if empty:
            yield f"no {what} ({name!r}) in {_listed('item', empty)}"
    others = [*fields.columns.values(), *filter(None, [fields.cluster]), *sorted(_read_by_prompt(fields))]
    for name in dict.fromkeys(others):
        absent = [index + 1 for index, row in enumerate(rows) if name in known and name not in row]
        if absent and name != fields.prompt:
            yield f"no {name!r} in {_listed('item', absent)}"


def _wrong_lists(rows: Sequence[Row], fields: Fields) -> Iterator[str]:
    """Yield a mistake for gold items that are no lists; empty ones are reported with the other gold answers."""
    name = fields.item_gold
    strange = [at + 1 for at, row in enumerate(rows) if name and row.get(name) and not isinstance(row[name], list)]
    if strange:
        yield f"{name!r} is no list of gold items in {_listed('item', strange)}; write one value for each: [4, 8]"


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or value in ([], {})


def _wrong_sides(rows: Sequence[Row], column: str, cluster: str | None) -> Iterator[str]:
    known = {name for row in rows for name in row}
    if column not in known:
        yield f"no column {column!r} for the side of the split{close_names(column, known)}"
        return
    wrong = [index for index, row in enumerate(rows, start=1) if row.get(column) not in ("dev", "test")]
    if wrong:
        given = rows[wrong[0] - 1].get(column)
        yield f"the side of the split ({column!r}) is dev or test, and is {given!r} in {_listed('item', wrong)}"
    sides: dict[str, set[str]] = {}
    for row in rows if cluster else ():
        sides.setdefault(str(row.get(cluster or "")), set()).add(str(row.get(column)))
    both = [name for name, found in sides.items() if len(found) > 1]
    if both and not wrong:
        yield f"the {_listed('group', both)} of {cluster!r} is on both sides of the split; put its items on one"


def _duplicates(rows: Sequence[Row], fields: Fields) -> Iterator[str]:
    if fields.id:
        counts = Counter(str(row[fields.id]) for row in rows if not _is_empty(row.get(fields.id)))
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            yield f"duplicate ids: {_listed('', [repr(name) for name in twice]).strip()}"


def _listed(noun: str, found: Sequence[Any]) -> str:
    shown = ", ".join(map(str, found[:_SHOWN]))
    more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    return f"{noun}{'s' if noun and len(found) > 1 else ''} {shown}{more}"
