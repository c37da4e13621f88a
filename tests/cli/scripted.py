"""The command line on scripted models: `python -m tests.cli.scripted run … -m scripted/echo`."""

import asyncio
import contextlib
import functools
from typing import Any

import pytest

from fusion import Fusion, Request, Say, ScriptedModel
from fusion.core.errors import BadRequestError, BadResponseError
from tests.conftest import frontier, said


def echo(request: Request) -> Any:
    """What it was asked, a word at a time; `shape` asks for JSON."""
    if request.json_schema is not None:
        return {"text": said(request)}
    return Say(pieces=[word for word in said(request).split(" ") for word in (word, " ")][:-1])


def slow(request: Request) -> Any:
    """Answers at once, but for what has the word `slow` in it: that takes an hour."""
    return Say(f"done: {said(request)}", delay=3600 if "slow" in said(request) else 0)


def torn(request: Request) -> Any:
    """Refuses what has the word `bad` in it."""
    return BadRequestError("no such thing", model="scripted/torn") if "bad" in said(request) else said(request)


def dull(request: Request) -> Any:
    """Fails on what has the word `bad` in it, without being asked again."""
    return Say(said(request), finish_reason="length") if "bad" in said(request) else said(request)


def bug(request: Request) -> Any:
    raise KeyError("lost")


async def stubborn(request: Request) -> str:
    """Does not end when it is cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(3600)
    await asyncio.sleep(3600)
    return "never"


def long(request: Request) -> str:
    return "a line of the answer\n" * 20_000


def restarted() -> list[Any]:
    return [Say(pieces=["half of "], error=BadResponseError("cut", model="scripted/restarted")), "the whole"]


def models() -> dict[str, ScriptedModel]:
    scripts: dict[str, Any] = {
        "echo": echo,
        "slow": slow,
        "torn": torn,
        "dull": dull,
        "bug": bug,
        "stubborn": stubborn,
        "long": long,
        "frontier": frontier(),
        "restarted": restarted(),
    }
    return {
        f"scripted/{name}": ScriptedModel(script, name=f"scripted/{name}", respect_limit=False)
        for name, script in scripts.items()
    }


def on_scripted_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-m scripted/…` and `--role …=scripted/…` are known to the command line."""
    from fusion.bench import benchmark
    from fusion.cli import map_session, session

    for module in (benchmark, session, map_session):
        monkeypatch.setattr(module, "Fusion", functools.partial(Fusion, models=models()))


if __name__ == "__main__":
    from fusion.cli.app import main

    with pytest.MonkeyPatch.context() as patch:
        on_scripted_models(patch)
        main()
