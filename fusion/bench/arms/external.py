"""External arms: a Python function, and a file with the answers of another system."""

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

from fusion.bench.arms.base import ArmResponse, Completion, Contestant, Trial, digest_of
from fusion.bench.report.results import ArmRecord
from fusion.bench.tasks import Task
from fusion.core.errors import UsageError
from fusion.core.types import Failure, Money, Usage, Value, as_text
from fusion.models.providers.errors import redacted_chain
from fusion.models.redaction import Mask, Redactor
from fusion.pipeline.rows import Row, read_rows

_SHOWN = 5


class FunctionArm(Contestant):
    """`module:function`, called with the prompt and with the task set's inputs by name.

    Returns the answer as text, or a mapping with `text` and, if known, `data`, `cost` in dollars, `calls`,
    `input_tokens`, `output_tokens` and `served`. May be async. An exception is a failed response.
    """

    def __init__(self, name: str, function: str) -> None:
        self._function, file = load_function("arm", function)
        self._redactor = Redactor()
        content = digest_of(file.read_bytes().hex()) if file is not None else ""
        self.record = ArmRecord(name=name, kind="python", sha256=content)
        self.digest = digest_of("python", function, content)

    def begin(self, task: Task, trial: Trial, done: Callable[[Completion], None]) -> Callable[[], object]:
        # A daemon thread: a function cannot be stopped, and must not keep the process alive.
        threading.Thread(target=self._call, args=(task, done), name="fusion-bench-arm", daemon=True).start()
        return lambda: None

    def _call(self, task: Task, done: Callable[[Completion], None]) -> None:
        began = time.monotonic()
        try:
            value = self._function(task.prompt, **task.inputs)
            if inspect.isawaitable(value):
                value = asyncio.run(_awaited(value))
            response = _Answer.of(value).response()
        except Exception as error:  # noqa: BLE001 - the border of code that is not ours
            response = _failed(f"{type(error).__name__}: {error}")
        response = _masked(response, self._redactor.mask()).model_copy(update={"latency": time.monotonic() - began})
        done(lambda: response)


class FileArm(Contestant):
    """A JSONL file with a line for each item: `id`, `text`, and the other keys that a FunctionArm may return.

    An item without a line counts as failed.
    """

    keeps = False

    def __init__(self, name: str, path: Path, ids: frozenset[str]) -> None:
        rows, sha256 = read_rows(path)
        self._path = path
        self._answers = _by_id(rows, str(path))
        self.record = ArmRecord(name=name, kind="outputs", price_source="the file", sha256=sha256)
        self.digest = digest_of("outputs", sha256)
        if not ids & self._answers.keys():
            known = ", ".join(map(repr, list(self._answers)[:_SHOWN]))
            raise UsageError(f"{path}: no line is for an item of this benchmark; the ids in the file are {known}, …")

    def begin(self, task: Task, trial: Trial, done: Callable[[Completion], None]) -> Callable[[], object]:
        answer = self._answers.get(task.id)
        missing = f"{self._path} has no line for the item {task.id!r}"
        done(lambda: _failed(missing) if answer is None else answer.response())
        return lambda: None


class _Answer(Value):
    """The answer of a function, or of a line of a file."""

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
    def of(cls, value: Any) -> "_Answer":
        if isinstance(value, str):
            return cls(text=value)
        if not isinstance(value, Mapping):
            raise TypeError(f"expected the answer's text or a mapping with `text`, got {type(value).__name__}")
        data = value.get("data")
        return cls.model_validate({"text": as_text(data) if data is not None else None, **value})

    def response(self) -> ArmResponse:
        return ArmResponse(
            **self.model_dump(include={"text", "data", "cost", "calls", "latency"}),
            usage=Usage(input=self.input_tokens, output=self.output_tokens),
            served=() if self.served is None else (self.served,),
            failure=None if self.failure is None else Failure(reason="ArmError", message=self.failure),
        )


def _failed(message: str) -> ArmResponse:
    return ArmResponse(failure=Failure(reason="ArmError", message=message))


async def _awaited(value: Any) -> Any:
    return await value


def _masked(response: ArmResponse, mask: Mask) -> ArmResponse:
    """Return the response without keys, which a function may leak in an error."""
    failure = response.failure
    if failure is not None:
        failure = Failure(reason=failure.reason, message=mask.text(failure.message))
    text, data, served = _without_keys((response.text, response.data, response.served), mask)
    return response.model_copy(update={"text": text, "data": data, "served": tuple(served), "failure": failure})


def _without_keys(data: Any, mask: Mask) -> Any:
    if isinstance(data, str):
        return mask.text(data)
    if isinstance(data, Mapping):
        return {_without_keys(name, mask): _without_keys(value, mask) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_without_keys(value, mask) for value in data]
    return data


def _by_id(rows: list[Row], file: str) -> dict[str, _Answer]:
    answers: dict[str, _Answer] = {}
    mistakes = []
    for number, row in enumerate(rows, start=1):
        name = row.pop("id", None)
        if name is None:
            mistakes.append(f"{file}: line {number} has no `id`")
        elif str(name) in answers:
            mistakes.append(f"{file}: line {number}: a second answer to the item {str(name)!r}")
        else:
            try:
                answers[str(name)] = _Answer.of(row)
            except ValidationError as error:
                mistakes.append(f"{file}: line {number}: {_first(error)}")
    if mistakes:
        more = f"\nand {len(mistakes) - _SHOWN:,} more" if len(mistakes) > _SHOWN else ""
        raise UsageError("\n".join(mistakes[:_SHOWN]) + more)
    return answers


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place, kind = ".".join(map(str, first["loc"])), first["type"]
    if kind == "extra_forbidden":
        return f"unknown key {place!r}; known keys: id, {', '.join(_Answer.model_fields)}"
    got = json.dumps(first["input"], default=str)[:60]
    return f"`{place}`: {first['msg'][0].lower()}{first['msg'][1:]}, got {got}"


# Functions of the user, for arms and scorers.


def load_function(role: str, name: str) -> tuple[Callable[..., Any], Path | None]:
    """Import `module:function`. Returns the function and the file of its module. `role` is named in errors."""
    module, _, function = name.partition(":")
    advice = "; write it as module:function"
    home = call(f"no {role} {name!r}", lambda: importlib.import_module(module), advice)
    found = call(f"no {role} {name!r}", lambda: getattr(home, function), advice)
    if not callable(found):
        raise UsageError(f"the {role} {name!r} is not a function")
    file = getattr(home, "__file__", None)
    return found, None if file is None else Path(file)


def call(what: str, function: Callable[[], Any], advice: str = "") -> Any:
    """Call the user's code. Raises UsageError for its exceptions, chained to a copy without keys."""
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - the border of code that is not ours
        mask = Redactor().mask()
        failed = UsageError(f"{what}: {mask.text(f'{type(error).__name__}: {error}')}{advice}")
        failed.__cause__ = redacted_chain(error, mask)
    raise failed  # outside of the block, so that its context does not hold the error itself
