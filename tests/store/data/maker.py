"""Makes a store with runs of every shape and end, by the version of Fusion that is checked out: see README.md."""

import argparse
import asyncio
import base64
import functools
import lzma
import os
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fusion import Fusion, Request, RunFailed, RunHandle
from fusion.core.errors import BadRequestError
from tests.store.data import cast

HERE = Path(__file__).parent
PLACE = Path("/srv/reports")
"""Where the pipelines are while the store is made: the store names no folder of the machine."""
STORE = PLACE / "runs.db"
ROLES = {"frontier": "scripted/lead", "bulk": "scripted/worker"}
MIDNIGHT = "the gauge at midnight"
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


def fusion(instead: cast.Instead | None = None, **options: Any) -> Fusion:
    """One on the scripted models and the store."""
    return Fusion(profile="local", models=cast.models(instead), roles=ROLES, store=STORE, **options)


def complete(name: str, *given: Any, instead: cast.Instead | None = None, **options: Any) -> str:
    """A run to its end, good or bad; its id."""
    own = {key: options.pop(key) for key in ("content",) if key in options}
    with fusion(instead, **own) as made:
        try:
            return made.complete(*given, tags={"name": name}, **options).run_id
        except RunFailed as failed:
            return failed.result.run_id


def command(name: str, *words: str) -> None:
    """The same by the command line."""
    patched = functools.partialmethod(Fusion.__init__, models=cast.models())
    line = ["fusion", "run", *words, "--profile", "local", "--store", str(STORE), "--tag", f"name={name}", "-q"]
    with patch.object(Fusion, "__init__", patched), patch.object(sys, "argv", line):
        try:
            runpy.run_module("fusion", run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise


def interrupted(name: str, number: int, begin: Callable[[Fusion], RunHandle]) -> str:
    """A run that is stopped when its models are asked for the n-th time; its id."""
    count, begun = 0, threading.Event()

    async def stop(request: Request) -> None:
        nonlocal count
        count += 1
        if count == number:
            begun.wait()
            handle.stop()
            await asyncio.Event().wait()

    with fusion(stop) as made:
        handle = begin(made)
        begun.set()
        assert handle.wait().status == "failed", name
        return handle.run_id


def starting(name: str, **options: Any) -> Callable[[Fusion], RunHandle]:
    """Begins a run in a Fusion."""
    return lambda made: made.start("the gauge", tags={"name": name}, **options)


async def refuse_the_end(request: Request) -> str | None:
    """A fault in place of the last answer of a chain."""
    if "FINAL" in request.messages[-1].content:
        raise BadRequestError("the answer is refused", model="scripted/lead")
    return None


async def without_facts(request: Request) -> str | None:
    """Text in place of the data that a chain begins with."""
    return "nothing is known" if any("FACTS" in message.content for message in request.messages) else None


def killed(name: str, number: int) -> None:
    """A run whose process gets SIGKILL when its models are asked for the n-th time."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.store.data.maker", "--killed", name, str(number)], check=False
    )
    assert child.returncode == -signal.SIGKILL


def die(name: str, number: int) -> None:
    """The same in this process."""
    count = 0

    async def kill(request: Request) -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    with fusion(kill) as made:
        made.complete("the gauge", pipeline="planned.yaml", tags={"name": name})


def make() -> None:
    """All the runs; each has its name as a tag."""
    complete("planned", "the gauge", pipeline="planned.yaml", inputs={"context": "It was 0.95 at noon."})
    chain = complete("chain", MIDNIGHT, pipeline="chain.yaml")
    command("reviewed", "reviewed.yaml", "-i", "rows=@readings.csv")
    complete("panel", "Rises the level?", pipeline="panel.yaml")
    complete("vote", "How many gauges?", pipeline="vote.yaml")
    complete("cascade", "How many gauges?", pipeline="cascade.yaml")
    complete("route", "the way", pipeline="route.yaml")
    complete("nested", "the gauge", pipeline="outer.yaml")
    command("document", "document.yaml", "the levels", "-i", "context=@report.txt")
    complete("rendered", "Oslo 1.20\nBergen 0.95\nSunken none", pipeline="rendered.yaml")
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "say what it is"}]
    complete("picture", talk, pipeline="picture.yaml", inputs={"picture": PICTURE})
    complete("cached-first", "a,b", pipeline="words.yaml")
    complete("cached-second", "b,c", pipeline="words.yaml")

    complete("failed", "the gauge", pipeline="chain.yaml", instead=refuse_the_end)
    complete("unusable", "the gauge", pipeline="chain.yaml", instead=without_facts)
    complete("budget", "the gauge", pipeline="planned.yaml", budget={"calls": 4})
    interrupted("interrupted", 3, starting("interrupted", pipeline="outer.yaml"))
    resumed = interrupted("resumed", 3, starting("resumed", pipeline="chain.yaml"))
    with fusion() as made:
        made.resume(resumed)
        made.resume(chain, pipeline="edited.yaml")
    interrupted("branch", 1, lambda made: made.start_resume(chain, pipeline="edited.yaml"))
    complete("digest", "the gauge", pipeline="chain.yaml", content="digest")
    complete("digest-failed", "the gauge", pipeline="chain.yaml", content="digest", instead=refuse_the_end)
    complete("off", "the gauge", pipeline="chain.yaml", content="off")
    killed("killed-resumed", 3)
    with fusion() as made:
        made.resume("latest")
    killed("killed", 6)


@contextmanager
def folder() -> Iterator[None]:
    """The pipelines and inputs where they are used."""
    for file in (*(HERE / "pipelines").iterdir(), HERE / "readings.csv", HERE / "report.txt"):
        PLACE.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, PLACE)
    os.chdir(PLACE)
    try:
        yield
    finally:
        shutil.rmtree(PLACE)


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("output", nargs="?", type=Path, help="the file that is made")
    words.add_argument("--killed", nargs=2)
    given = words.parse_args()
    if given.killed:
        die(given.killed[0], int(given.killed[1]))
        return
    output = given.output.absolute()
    os.environ["PYTHONPATH"] = str(HERE.parents[2])
    with folder():
        make()
        with sqlite3.connect(STORE, isolation_level=None) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        output.write_bytes(lzma.compress(STORE.read_bytes(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
