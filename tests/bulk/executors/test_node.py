"""A node runs slices of a map from the store alone, in a process that did not start the map."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, __version__
from fusion.bulk.executors.base import RowEnd, Slice, Terms
from fusion.bulk.executors.node import Node
from fusion.bulk.fusion import node_of
from fusion.core.config import Settings
from fusion.core.errors import UnfitError
from tests.bulk.executors.site import PIPELINE
from tests.provider import Answer, Provider, Seen

NODE = """
import sys
from fusion import Fusion
from fusion.bulk.executors.base import Slice, Terms
from fusion.bulk.fusion import node_of
terms = Terms.model_validate_json(sys.argv[1])
with Fusion(store="runs.db") as fusion:
    node, loop = node_of(fusion, concurrency=2)
    ended = lambda end: print(end.number, end.status, flush=True)
    loop.submit(node.run(terms, Slice("m", tuple(eval(sys.argv[2]))), ended)).done.result()
"""


class Ground:
    """A folder with a pipeline, rows and a store, and a provider that counts what it is asked."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        self.folder = folder
        self.provider = provider
        self.on_call: Callable[[str], Answer] = lambda text: Answer(text.lower())
        provider.script = self._answer
        self.env = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": provider.url, "OPENAI_API_BASE": provider.url}
        (folder / "two.yaml").write_text(PIPELINE)

    def _answer(self, seen: Seen) -> Answer:
        return self.on_call(seen.body["messages"][-1]["content"])

    @property
    def asked(self) -> Counter[str]:
        return Counter(seen.body["messages"][-1]["content"] for seen in self.provider.requests)

    def was_asked(self, text: str) -> bool:
        """Wait until the provider is asked this; return False if it is not in time."""
        return self.provider.wait_until(lambda provider: self.asked[text] == 1, seconds=60)

    def started(self, rows: int, **more: Any) -> Terms:
        """Start a map that ends after its first row, and return its terms; the others are planned."""
        lines = "".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(1, rows + 1))
        (self.folder / "rows.jsonl").write_text(lines)
        self.on_call = lambda text: Answer(text.lower(), hang="row 1" not in text.lower())
        options = {"pipeline": self.folder / "two.yaml", "id": "m", "concurrency": 1, **more}
        with (
            self.fusion(model="openai/gpt-4o-mini") as fusion,
            fusion.map(self.folder / "rows.jsonl", **options) as found,
        ):
            next(found)
            assert self.was_asked("READ row 2")  # or its request may come after the others are cleared
        self.on_call = lambda text: Answer(text.lower())
        self.provider.requests.clear()
        with self.fusion() as fusion:
            record = next(name for name, _ in fusion.store.map_records("m"))
        return Terms(map_id="m", number=1, fingerprint=record, version=__version__)

    def fusion(self, **more: Any) -> Fusion:
        return Fusion(store=self.folder / "runs.db", **more)

    def process(self, code: str, *words: str) -> "subprocess.Popen[str]":
        env = {**os.environ, **self.env, "PYTHONPATH": str(Path(__file__).parents[3])}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-c", code, *words], cwd=self.folder, env=env, stdout=pipe, stderr=pipe, text=True
        )


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    with Provider() as provider:
        made = Ground(tmp_path, provider)
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        yield made


def run(fusion: Fusion, terms: Terms, numbers: tuple[int, ...], *, concurrency: int = 4) -> list[RowEnd]:
    """Run a slice on a node of this Fusion, and return the ends of its rows by number."""
    node, loop = node_of(fusion, concurrency=concurrency)
    ends: list[RowEnd] = []
    loop.submit(node.run(terms, Slice(terms.map_id, numbers), ends.append)).done.result()
    return sorted(ends)


def test_rows_run_from_the_store_alone(ground: Ground) -> None:
    terms = ground.started(4)
    (ground.folder / "two.yaml").unlink()
    with ground.fusion() as fusion:
        ends = run(fusion, terms, (1, 2, 3, 4))
        assert [(end.number, end.run_id, end.status) for end in ends] == [(n, f"m-{n}", "ok") for n in (1, 2, 3, 4)]
        fusion.store.flush()
        kept = fusion.store.result("m-3")
    assert kept is not None
    assert kept["text"] == "answer read row 3"
    assert set(ground.asked.values()) == {1}, ground.asked


def test_a_slice_of_a_killed_process_goes_on_without_a_repeated_call(ground: Ground) -> None:
    terms = ground.started(3)
    ground.on_call = lambda text: Answer(hang=True) if text == "ANSWER read row 3" else Answer(text.lower())
    process = ground.process(NODE, terms.model_dump_json(), "(2, 3)")
    assert process.stdout is not None
    assert process.stdout.readline() == "2 ok\n"
    assert ground.was_asked("ANSWER read row 3")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    ground.on_call = lambda text: Answer(text.lower())
    with ground.fusion() as fusion:
        ends = run(fusion, terms, (2, 3))
    assert [end.status for end in ends] == ["ok", "ok"]
    assert ground.asked["ANSWER read row 3"] == 2  # in flight when its process died
    assert ground.asked["READ row 3"] == ground.asked["READ row 2"] == ground.asked["ANSWER read row 2"] == 1


@pytest.mark.parametrize("held", ["(2,)", "(1, 2)", "(2, 1)"], ids=["same", "longer", "reversed"])
def test_a_slice_waits_for_the_lock_of_the_process_that_runs_its_rows(ground: Ground, held: str) -> None:
    terms = ground.started(2)
    ground.on_call = lambda text: Answer(hang=True) if text == "READ row 2" else Answer(text.lower())
    process = ground.process(NODE, terms.model_dump_json(), held)
    assert ground.was_asked("READ row 2")
    ground.on_call = lambda text: Answer(text.lower())
    with ground.fusion() as fusion:
        node, loop = node_of(fusion, concurrency=1)
        ends: list[RowEnd] = []
        work = loop.submit(node.run(terms, Slice("m", (2,)), ends.append))
        assert loop.submit(_turns(10)).done.result() == 10
        assert ground.asked["READ row 2"] == 1
        process.send_signal(signal.SIGKILL)
        process.communicate()
        work.done.result()
    assert [end.status for end in ends] == ["ok"]


async def _turns(count: int) -> int:
    for _ in range(count):
        await asyncio.sleep(0.01)
    return count


def test_a_failed_row_tells_its_failure(ground: Ground) -> None:
    terms = ground.started(2)
    ground.on_call = lambda text: Answer("no", status=400)
    with ground.fusion() as fusion:
        (end,) = run(fusion, terms, (2,))
    assert end.status == "failed"
    assert end.failure is not None
    assert end.failure.reason == "BadRequestError"


def test_a_failed_row_is_asked_again_only_in_a_pass_that_retries(ground: Ground) -> None:
    terms = ground.started(2)
    ground.on_call = lambda text: Answer("no", status=400)
    with ground.fusion() as fusion:
        assert [end.status for end in run(fusion, terms, (2,))] == ["failed"]
        ground.on_call = lambda text: Answer(text.lower())
        assert [end.status for end in run(fusion, terms, (2,))] == ["failed"]
        again = terms.model_copy(update={"retry_failed": True, "number": 2})
        assert [end.status for end in run(fusion, again, (2,))] == ["ok"]


def test_a_row_is_given_up_with_a_reason(ground: Ground) -> None:
    terms = ground.started(2)
    with ground.fusion() as fusion:
        node, loop = node_of(fusion, concurrency=1)
        ends: list[RowEnd] = []
        work = node.give_up(terms, Slice("m", (1, 2)), ends.append, reason="it ended 3 workers")
        loop.submit(work).done.result()
        fusion.store.flush()
        kept = fusion.store.run("m-2")
    assert [end.status for end in ends] == ["ok", "failed"]  # the first has its answer
    assert kept is not None
    assert kept.status == "failed"
    assert kept.failure is not None
    assert (kept.failure.reason, kept.failure.message) == ("WorkerLostError", "it ended 3 workers")


def test_a_drained_node_ends_what_runs_and_begins_nothing(ground: Ground) -> None:
    terms = ground.started(4)

    def drained(node: Node, loop: Any) -> Answer:
        loop.submit(node.drain(30))
        return Answer("done")

    with ground.fusion() as fusion:
        node, loop = node_of(fusion, concurrency=1)
        ground.on_call = lambda text: drained(node, loop) if text == "READ row 2" else Answer(text.lower())
        ends: list[RowEnd] = []
        loop.submit(node.run(terms, Slice("m", (2, 3, 4)), ends.append)).done.result()
        assert [(end.number, end.status) for end in ends] == [(2, "ok")]
        assert node.draining
        assert [end.status for end in run(fusion, terms, (2, 3, 4))] == ["ok"] * 3
    assert ground.asked["READ row 2"] == 1


def test_a_drain_interrupts_rows_after_its_grace(ground: Ground) -> None:
    terms = ground.started(2)
    ground.on_call = lambda text: Answer(hang=True) if text.startswith("ANSWER") else Answer(text.lower())
    with ground.fusion() as fusion:
        node, loop = node_of(fusion, concurrency=2)
        ends: list[RowEnd] = []
        work = loop.submit(node.run(terms, Slice("m", (2,)), ends.append))
        assert ground.was_asked("ANSWER read row 2")
        loop.submit(node.drain(0)).done.result()
        work.done.result()
        fusion.store.flush()
        kept = fusion.store.run("m-2")
        assert ends == []
        assert kept is not None
        assert kept.status == "interrupted"
        ground.on_call = lambda text: Answer(text.lower())
        assert [end.status for end in run(fusion, terms, (2,))] == ["ok"]
    assert ground.asked["READ row 2"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"OPENAI_API_KEY": None}, "OPENAI_API_KEY"),
        ({"policy": 'deny = ["openai"]'}, "forbids"),
        ({"version": "0.1.0"}, "started by Fusion 0.1.0"),
        ({"fingerprint": "other"}, "no record of the map 'm'"),
        ({"content": "digest"}, "content"),
    ],
    ids=["key", "policy", "version", "record", "content"],
)
def test_a_process_that_does_not_fit_a_map_says_why(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], reason: str
) -> None:
    terms = ground.started(2)
    if "OPENAI_API_KEY" in change:
        monkeypatch.delenv("OPENAI_API_KEY")
    settings = Settings.from_environment()
    if "policy" in change:
        (ground.folder / "own.toml").write_text(f"[policy]\n{change['policy']}\n")
        settings = Settings.from_environment(config=ground.folder / "own.toml")
    terms = terms.model_copy(update={name: change[name] for name in ("version", "fingerprint") if name in change})
    with (
        ground.fusion(settings=settings, content=change.get("content")) as fusion,
        pytest.raises(Exception) as raised,
    ):
        run(fusion, terms, (2,))
    assert reason in str(raised.value)
    assert isinstance(raised.value, UnfitError) or "content" in change
    assert "READ row 2" not in ground.asked
