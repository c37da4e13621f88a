"""Python functions as tools: their signatures, their results, and the settings that allow them."""

import asyncio
import dataclasses
import datetime
import enum
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from fusion.core.config import Settings
from fusion.core.errors import UsageError
from fusion.core.types import ToolResult
from fusion.tools.declared import Declared
from fusion.tools.functions import Function

pytestmark = pytest.mark.anyio


class Place(BaseModel):
    name: str
    height: float = 0.0


@dataclasses.dataclass
class Point:
    x: int


class Unit(enum.Enum):
    METRE = "m"
    FOOT = "ft"


def weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> str:
    """Return the weather of a city.

    It is never certain.

    Args:
        city: Name of the city.
        days (int): Days ahead.
    """
    return f"{city} {days} {unit}"


async def soon(place: Place, more: list[int] | None = None) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"place": place.name, "more": more}


def typed(day: datetime.date, unit: Unit, near: Point, share: Annotated[float, Field(ge=0, le=1)]) -> list[Any]:
    return [day, unit, near, share]


def untyped(a, b=2):  # type: ignore[no-untyped-def]
    return [a, b]


def schema(json: str, copy: int = 1, **_: Any) -> str:
    return json * copy


def positional(a: int, /) -> int:
    return a


def spread(*names: str) -> str:
    return ",".join(names)


def unknown_type(a: threading.Lock) -> None:
    return None


def absent_type(a: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
    return None


# Signatures.


def test_the_signature_and_the_docstring_make_the_spec() -> None:
    spec = Function("mine:weather", weather).spec
    assert spec.name == "weather"
    assert spec.description == "Return the weather of a city.\n\nIt is never certain."
    assert spec.parameters == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "city": {"type": "string", "description": "Name of the city."},
            "days": {"type": "integer", "default": 1, "description": "Days ahead."},
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
        },
        "required": ["city"],
    }


@pytest.mark.parametrize(
    ("function", "arguments", "data"),
    [
        (soon, {"place": {"name": "Oslo"}}, {"place": "Oslo", "more": None}),
        (soon, {"place": {"name": "Oslo"}, "more": [1]}, {"place": "Oslo", "more": [1]}),
        (
            typed,
            {"day": "2026-01-02", "unit": "ft", "near": {"x": 3}, "share": 0.5},
            ["2026-01-02", "ft", {"x": 3}, 0.5],
        ),
        (untyped, {"a": {"b": [1]}}, [{"b": [1]}, 2]),
        (lambda: 7, {}, 7),
        (lambda: Place(name="a"), {}, {"name": "a", "height": 0.0}),
    ],
)
async def test_arguments_become_what_the_signature_says(
    function: Callable[..., Any], arguments: dict[str, Any], data: Any
) -> None:
    assert (await Function("mine:f", function).call(arguments)).data == data


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "mine:f: argument 'city' is missing"),
        ({"city": "Oslo", "town": 1}, "mine:f: there is no argument 'town'"),
        ({"city": "Oslo", "days": "many"}, "argument 'days': input should be a valid integer"),
        ({"city": 7, "unit": "K"}, "argument 'city': input should be a valid string; argument 'unit': input should"),
        ({"city": None}, "argument 'city': input should be a valid string"),
    ],
)
async def test_arguments_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        await Function("mine:f", weather).call(arguments)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (positional, "takes 'a: int', which no argument by name can fill"),
        (spread, r"takes '\*names: str', which no argument"),
        (schema, r"takes '\*\*_: Any'"),
        (unknown_type, "has a parameter of a type that JSON has no form for"),
        (absent_type, "its annotations cannot be read: name 'Nowhere' is not defined"),
    ],
)
def test_functions_that_data_cannot_call(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Function("mine:f", function)


# Results.


@pytest.mark.parametrize(
    ("returned", "result"),
    [
        ("text", ToolResult("text")),
        (None, ToolResult("")),
        ({"a": 1}, ToolResult('{"a": 1}', {"a": 1})),
        ([Place(name="b")], ToolResult('[{"name": "b", "height": 0.0}]', [{"name": "b", "height": 0.0}])),
        (ToolResult("no", failed=True), ToolResult("no", failed=True)),
    ],
)
async def test_results_are_text_or_data(returned: Any, result: ToolResult) -> None:
    assert await Function("mine:f", lambda: returned).call({}) == result


@pytest.mark.parametrize("returned", [object(), float("nan"), {"a": threading}, {1.5: float("inf")}, lambda: 1])
async def test_a_result_that_json_cannot_hold(returned: Any) -> None:
    with pytest.raises(ValueError, match=r"it returned a .* that JSON cannot hold"):
        await Function("mine:f", lambda: returned).call({})


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyError("a"), SystemExit(3), StopIteration()])
async def test_an_exception_reaches_the_caller(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(RuntimeError if isinstance(error, StopIteration) else type(error)):
        await Function("mine:f", fail).call({})


async def test_a_function_runs_in_a_thread_that_a_cancelled_call_leaves(anyio_backend: str) -> None:
    free, seen = threading.Event(), list[bool]()

    def wait() -> None:
        seen.append(threading.current_thread().daemon)
        free.wait(10)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await Function("mine:f", wait).call({})
    free.set()
    assert seen == [True]


# The settings.


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Callable[[str], Declared]]:
    """Makes toolboxes from `[python]` of a fusion.toml beside a module `own_tools`."""
    (tmp_path / "own_tools.py").write_text(
        "from os import getpid\nimport subprocess\n"
        "def look(key: str) -> str:\n    return key\n"
        "def store(key: str) -> str:\n    return key\n"
        "class Box:\n    def look(self) -> str:\n        return ''\n"
        "box = Box()\nVALUE = 3\n"
    )
    (tmp_path / "broken_tools.py").write_text("1 / 0")
    (tmp_path / "lacking_tools.py").write_text("import no_such_library")

    def make(text: str) -> Declared:
        path = tmp_path / "fusion.toml"
        path.write_text(f"[python]\n{text}")
        return Declared(Settings.from_environment(config=path))

    before = list(sys.path)
    yield make
    sys.path[:] = before
    for name in ("own_tools", "broken_tools", "lacking_tools"):
        sys.modules.pop(name, None)


async def test_functions_beside_the_file_that_allows_them(mine: Callable[[str], Declared]) -> None:
    tools = mine('allow = ["own_tools:*", "os:getcwd"]\nread = ["own_tools:look"]\ntimeout = 3')
    (look,), (store,) = await tools.find("own_tools:look"), await tools.find("own_tools:store")
    assert (look.effect, store.effect, look.timeout) == ("read", "write", 3)
    assert (await look.call({"key": "a"})).text == "a"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_tools:lok", "module 'own_tools' has no function 'lok'; did you mean 'look'?"),
        ("own_tools:VALUE", "'own_tools:VALUE' is no function but a value of type int"),
        ("own_tools:getpid", "not allowed by a pattern, since 'own_tools' has it from"),
        ("own_tools:subprocess.run", "function 'own_tools:subprocess.run' is not allowed: add `allow ="),
        ("own_tools:box.look", "is not allowed"),
        ("broken_tools:f", "module 'broken_tools' cannot be imported: ZeroDivisionError"),
        ("lacking_tools:f", "module 'lacking_tools' cannot be imported: No module named 'no_such_library'"),
        (
            "absent_tools:f",
            "no module 'absent_tools' for the function 'absent_tools:f': install it, or put it",
        ),
        ("os:system", "function 'os:system' is not allowed"),
    ],
)
async def test_functions_that_cannot_be_had(mine: Callable[[str], Declared], name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        await mine('allow = ["*_tools:*"]').find(name)
    assert message in str(caught.value)


async def test_a_name_in_full_allows_what_a_pattern_does_not(mine: Callable[[str], Declared]) -> None:
    tools = mine('allow = ["own_tools:box.look", "own_tools:getpid"]')
    (look,) = await tools.find("own_tools:box.look")
    assert look.spec.name == "box_look"
    with pytest.raises(UsageError, match="is not allowed"):
        tools.check("own_tools:store")


async def test_functions_of_packages_have_the_names_of_their_entry_points(
    mine: Callable[[str], Declared], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = EntryPoints([EntryPoint("lookup", "own_tools:look", "fusion.tools")])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries.select(group=group))
    (tool,) = await mine('allow = ["own_tools:*"]').find("lookup")
    assert (tool.spec.name, (await tool.call({"key": "a"})).text) == ("lookup", "a")
    with pytest.raises(UsageError, match="function 'own_tools:look' is not allowed"):
        mine("").check("lookup")
