"""`cache: shared`: one request in all processes of a store; a holder that fails or dies is taken over."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Say, ScriptedModel
from fusion.core.errors import BadRequestError
from fusion.core.types import CallKey, Message, Request
from fusion.models.wrappers import cache as caches
from fusion.models.wrappers.cache import Cached, StoreCache
from fusion.store.open import open_store
from tests.cli.conftest import environment
from tests.conftest import pipeline

ASKED = Request(
    messages=(Message(role="user", content="hello"),),
    max_tokens=50,
    key=CallKey(stage="s", step="work", digest="d"),
)
MAP = """
inputs: {rows: Rows.}
stages: {work: {kind: map, over: "range(20) | list", role: bulk, prompt: "say {{ item.source }}"}}
output: work
"""


class Gate:
    """A model that waits until it may answer."""

    def __init__(self, answer: Any = "fine") -> None:
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self.model = ScriptedModel(self._answer, name="m/gate", respect_limit=False)
        self._said = answer

    async def _answer(self, request: Any) -> Any:
        self.asked.set()
        await self.open.wait()
        return self._said


def two(path: Path, first: ScriptedModel, second: ScriptedModel) -> tuple[Cached, Cached, Callable[[], None]]:
    """Two models on caches of one store, each opened for itself, as two processes do."""
    stores = [open_store(path), open_store(path)]
    one, other = (Cached(model, StoreCache(store)) for model, store in zip((first, second), stores, strict=True))
    return one, other, lambda: [store.close() for store in stores] and None


@pytest.mark.parametrize(
    ("said", "sent", "reused"),
    [
        ("fine", 0, "cache"),
        (Say("cut", finish_reason="length"), 1, None),
        (Say(error=BadRequestError("no")), 1, None),
    ],
)
def test_a_second_process_waits_for_the_first(tmp_path: Path, said: Any, sent: int, reused: str | None) -> None:
    async def main() -> None:
        gate, spare = Gate(said), ScriptedModel("spare", name="m/spare")
        one, other, close = two(tmp_path / "runs.db", gate.model, spare)
        first = asyncio.ensure_future(one.complete(ASKED))
        await gate.asked.wait()
        second = asyncio.ensure_future(other.complete(ASKED))
        for _ in range(3):
            await asyncio.sleep(0)
        assert spare.requests == []
        gate.open.set()
        reply = await second
        assert (len(spare.requests), reply.reused) == (sent, reused)
        await asyncio.gather(first, return_exceptions=True)
        close()

    asyncio.run(main())


def test_a_cancelled_holder_is_taken_over(tmp_path: Path) -> None:
    async def main() -> None:
        gate, spare = Gate(), ScriptedModel("spare", name="m/spare")
        one, other, close = two(tmp_path / "runs.db", gate.model, spare)
        first = asyncio.ensure_future(one.complete(ASKED))
        await gate.asked.wait()
        second = asyncio.ensure_future(other.complete(ASKED))
        first.cancel()
        assert (await second).text == "spare"
        await asyncio.gather(first, return_exceptions=True)
        close()

    asyncio.run(main())


def test_the_wait_for_a_holder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_PATIENCE", 0)

    async def main() -> None:
        gate, spare = Gate(), ScriptedModel("spare", name="m/spare")
        one, other, close = two(tmp_path / "runs.db", gate.model, spare)
        first = asyncio.ensure_future(one.complete(ASKED))
        await gate.asked.wait()
        assert (await other.complete(ASKED)).text == "spare"
        gate.open.set()
        assert (await first).text == "fine"
        close()

    asyncio.run(main())


HOLDER = """
import sys, time
from pathlib import Path
from fusion.store.open import open_store
lock = open_store(Path(sys.argv[1])).claim(sys.argv[2])
print("held" if lock else "missed", flush=True)
time.sleep(600)
"""


def test_a_killed_holder_is_taken_over(tmp_path: Path) -> None:
    path, spare = tmp_path / "runs.db", ScriptedModel("spare", name="m/spare")
    store = open_store(path)
    model = Cached(spare, StoreCache(store))
    name = f"request-{model._key(ASKED)}"
    words = [sys.executable, "-c", HOLDER, str(path), name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment()) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert store.claim(name) is None

        async def main() -> None:
            asking = asyncio.ensure_future(model.complete(ASKED))
            await asyncio.sleep(0)
            assert spare.requests == []
            holder.kill()
            assert (await asking).text == "spare"

        asyncio.run(main())
    store.close()


def test_two_fusions_on_one_store_ask_each_prompt_once(tmp_path: Path) -> None:
    models = [ScriptedModel("fine", name="m/same", delay=0.01) for _ in range(2)]
    made = [Fusion(profile="local", model=model, store=tmp_path / "runs.db") for model in models]
    handles = [one.start(f"run {n}", pipeline=pipeline(MAP), cache="shared") for n, one in enumerate(made)]
    results = [handle.wait(60) for handle in handles]
    for one in made:
        one.close()
    assert [result.status for result in results] == ["ok", "ok"]
    assert sum(len(model.requests) for model in models) == 20
    assert sum(line.reused for result in results for line in result.receipt.lines) == 20
