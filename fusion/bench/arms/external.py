"""Outsiders: arms that are no runs of ours: a Python function, and answers of somebody else's system in a file."""

import asyncio
import importlib
import inspect
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from fusion.bench.arms.base import Answered, Contestant, Taken, Turn, digest_of
from fusion.bench.report.results import ArmRecord
from fusion.bench.tasks import Task
from fusion.core.errors import UsageError
from fusion.core.types import Failure, Money, Usage, Value, as_text
from fusion.models.providers.errors import redacted_chain
from fusion.models.redaction import Mask, Redactor
from fusion.pipeline.rows import Row, read_rows

_SHOWN = 5


class FromFunction(Contestant):
    """`module:function`, called with the prompt, and with the task set's inputs by name.

    It gives the answer's text, or a mapping with `text` and, as far as they are known, `data`, `cost` in dollars,
    `calls`, `input_tokens`, `output_tokens` and `served`. It may be async. What it raises is a failed answer.
    """

    def __init__(self, name: str, function: str) -> None:
        self._function, file = imported("arm", function)
        self._redactor = Redactor()
        content = digest_of(file.read_bytes().hex()) if file is not None else ""
        self.record = ArmRecord(name=name, kind="python", sha256=content)
        self.digest = digest_of("python", function, content)

    def begin(self, task: Task, turn: Turn, done: Callable[[Taken], None]) -> Callable[[], object]:
        # A daemon of its own: nothing can stop a function, and the process is not to wait for it.
        threading.Thread(target=self._call, args=(task, done), name="fusion-bench-arm", daemon=True).start()
        return lambda: None

    def _call(self, task: Task, done: Callable[[Taken], None]) -> None:
        began = time.monotonic()
        try:
            said = self._function(task.prompt, **task.inputs)
            if inspect.isawaitable(said):
                said = asyncio.run(_awaited(said))
            answered = _Said.of(said).answered()
        except Exception as error:  # noqa: BLE001 - the border of an arm that is not ours
            message = f"{type(error).__name__}: {error}"
            answered = Answered(failure=Failure(reason="ArmError", message=message))
        answered = _masked(answered, self._redactor.mask()).model_copy(update={"latency": time.monotonic() - began})
        done(lambda: answered)


def _masked(answered: Answered, mask: Mask) -> Answered:
    """Without the keys that a function may have let out of somebody's error."""
    failure = answered.failure
    if failure is not None:
        failure = Failure(reason=failure.reason, message=mask.text(failure.message))
    return answered.model_copy(
        update={
            "text": mask.text(answered.text),
            "data": _without_keys(answered.data, mask),
            "served": tuple(map(mask.text, answered.served)),
            "failure": failure,
        }
    )


def _without_keys(data: Any, mask: Mask) -> Any:
    if isinstance(data, str):
        return mask.text(data)
    if isinstance(data, Mapping):
        return {_without_keys(name, mask): _without_keys(value, mask) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_without_keys(value, mask) for value in data]
    return data


async def _awaited(said: Any) -> Any:
    return await said


class _Said(Value):
    """What a function or a line of a file says of an item."""

    text: str
    data: Any = None
    cost: Money | None = Field(default=None, ge=0)
    calls: int = Field(default=0, ge=0)
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    latency: float = Field(default=0.0, ge=0)
    served: str | None = None
    failure: str | None = None

    @classmethod
    def of(cls, given: Any) -> "_Said":
        if isinstance(given, str):
            return cls(text=given)
        if not isinstance(given, Mapping):
            raise TypeError(f"expected the answer's text or a mapping with `text`, got {type(given).__name__}")
        data = given.get("data")
        return cls.model_validate({"text": as_text(data) if data is not None else None, **given})

    def answered(self) -> Answered:
        return Answered(
            text=self.text,
            data=self.data,
            cost=self.cost,
            usage=Usage(input=self.input_tokens, output=self.output_tokens),
            calls=self.calls,
            latency=self.latency,
            served=() if self.served is None else (self.served,),
            failure=None if self.failure is None else Failure(reason="ArmError", message=self.failure),
        )


class FromFile(Contestant):
    """A JSONL file with a line for each item: `id`, `text`, and what else `FromFunction` may say.

    An item without a line is a failed one.
    """

    keeps = False

    def __init__(self, name: str, path: Path, ids: frozenset[str]) -> None:
        rows, sha256 = read_rows(path)
        self._path = path
        self._said = _by_id(rows, str(path))
        self.record = ArmRecord(name=name, kind="outputs", price_source="the file", sha256=sha256)
        self.digest = digest_of("outputs", sha256)
        if not ids & self._said.keys():
            known = ", ".join(map(repr, list(self._said)[:_SHOWN]))
            raise UsageError(f"{path}: no line is of an item of this benchmark; its ids are {known}, …")

    def begin(self, task: Task, turn: Turn, done: Callable[[Taken], None]) -> Callable[[], object]:
        said = self._said.get(task.id)
        if said is None:
            failure = Failure(reason="ArmError", message=f"{self._path} has no line for the item {task.id!r}")
            done(lambda: Answered(failure=failure))
        else:
            done(said.answered)
        return lambda: None


def _by_id(rows: list[Row], file: str) -> dict[str, _Said]:
    found: dict[str, _Said] = {}
    mistakes = []
    for number, row in enumerate(rows, start=1):
        name = row.pop("id", None)
        if name is None:
            mistakes.append(f"{file}: line {number} has no `id`")
        elif str(name) in found:
            mistakes.append(f"{file}: line {number}: a second answer to the item {str(name)!r}")
        else:
            try:
                found[str(name)] = _Said.of(row)
            except ValidationError as error:
                mistakes.append(f"{file}: line {number}: {_first(error)}")
    if mistakes:
        more = f"\nand {len(mistakes) - _SHOWN:,} more" if len(mistakes) > _SHOWN else ""
        raise UsageError("\n".join(mistakes[:_SHOWN]) + more)
    return found


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where, kind = ".".join(map(str, first["loc"])), first["type"]
    if kind == "extra_forbidden":
        return f"unknown key {where!r}; there are: id, {', '.join(_Said.model_fields)}"
    got = json.dumps(first["input"], default=str)[:60]
    return f"`{where}`: {first['msg'][0].lower()}{first['msg'][1:]}, got {got}"


def called(what: str, call: Callable[[], Any], advice: str = "") -> Any:
    """What the code gives. Raises UsageError for what it raises: behind that stands a copy without keys."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - the border of code that is not ours
        mask = Redactor().mask()
        failed = UsageError(f"{what}: {mask.text(f'{type(error).__name__}: {error}')}{advice}")
        failed.__cause__ = redacted_chain(error, mask)
    raise failed  # out here nothing of the error itself hangs on it


def imported(what: str, name: str) -> tuple[Callable[..., Any], Path | None]:
    """A function given as `module:function`, and the file of its module. `what` is what it is to be."""
    module, _, function = name.partition(":")
    advice = "; it is given as module:function"
    home = called(f"no {what} {name!r}", lambda: importlib.import_module(module), advice)
    found = called(f"no {what} {name!r}", lambda: getattr(home, function), advice)
    if not callable(found):
        raise UsageError(f"the {what} {name!r} is no function")
    file = getattr(home, "__file__", None)
    return found, None if file is None else Path(file)
