"""The pool of nodes: rows find a node that runs them, and a row that ends its process is found out."""

import asyncio
from collections.abc import Callable, Container, Coroutine, Generator
from decimal import Decimal
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

from fusion.bulk.executors.base import RowEnd, Terms
from fusion.bulk.executors.ray import member, pool
from fusion.bulk.executors.ray.cluster import ClusterNode
from fusion.bulk.executors.ray.messages import Order
from fusion.bulk.executors.ray.pool import Pool
from fusion.core.errors import FusionError, StoreError, UnfitError, UsageError, first_error

TERMS = Terms(map_id="m", number=1, fingerprint="f", version="1")


class Actor:
    """An actor in this process: its rows end at once, unless they `kill` it or its node."""

    def __init__(self, cluster: "Cluster", name: str) -> None:
        self._cluster = cluster
        self._name = name
        for method in (self._hello, self._run, self._give_up, self._close):
            setattr(self, method.__name__.strip("_"), _Remote(method))

    async def _hello(self) -> FusionError | None:
        return self._cluster.faults.get(self._name)

    async def _run(self, numbers: tuple[int, ...]) -> tuple[list[RowEnd], FusionError | None]:
        cluster = self._cluster
        cluster.calls.append((self._name, numbers))
        await asyncio.sleep(0)
        if self._name not in cluster.names:
            await asyncio.Event().wait()  # a node that is gone may never answer
        if (error := cluster.on_run(self._name, numbers)) is not None:
            return [], error
        if cluster.deadly & set(numbers):
            raise ActorUnavailableError("died", None)
        return [_end(number, "ok") for number in numbers], None

    async def _give_up(self, numbers: tuple[int, ...], reason: str) -> tuple[list[RowEnd], FusionError | None]:
        self._cluster.reasons.append(reason)
        return [_end(number, "failed") for number in numbers], None

    async def _close(self) -> None:
        return


class _Remote:
    """A method of an actor. As with Ray, a call runs once it is sent, also if its reference is dropped."""

    def __init__(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._method = method

    def remote(self, *arguments: Any) -> "_Reference":
        return _Reference(asyncio.ensure_future(self._method(*arguments)))


class _Reference:
    """The result of a call that runs. Its waiter may be cancelled, the call may not."""

    def __init__(self, call: "asyncio.Task[Any]") -> None:
        self._call = call
        call.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.shield(self._call).__await__()


class Cluster:
    """Nodes by name, which tests add and take away."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.faults: dict[str, FusionError] = {}
        self.deadly: set[int] = set()
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.reasons: list[str] = []
        self.ended = self.looks = 0
        self.unanswered: Container[int] = ()
        self.on_run: Callable[[str, tuple[int, ...]], FusionError | None] = lambda name, numbers: None

    def nodes(self) -> list[ClusterNode]:
        self.looks += 1
        if self.looks in self.unanswered:
            raise ConnectionError("the head does not answer")
        return [ClusterNode(name, name) for name in self.names]

    def actor(self, node: ClusterNode, order: Order) -> Actor:
        return Actor(self, node.name)

    def kill(self, actor: Actor) -> None:
        self.ended += 1

    @property
    def used(self) -> set[str]:
        return {name for name, _ in self.calls}


def _end(number: int, status: Any) -> RowEnd:
    return RowEnd(number, f"m-{number}", status, Decimal(0), None, 0.01)


def run(cluster: Cluster, rows: int, *, concurrency: int = 100) -> tuple[dict[int, str], list[str]]:
    """Run rows; their states by number, and the notes."""
    ends: dict[int, str] = {}
    notes: list[str] = []

    def ended(some: Any) -> None:
        for end in some:
            assert end.number not in ends
            ends[end.number] = end.status

    async def main() -> None:
        order = Order(address=None, place="postgresql:///runs", concurrency=concurrency, terms=TERMS)
        one = Pool(cluster, order, ended, notes.append)  # type: ignore[arg-type]  # one of this process
        one.add(range(1, rows + 1))
        one.no_more()
        try:
            async with asyncio.timeout(20):
                await one.run()
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            await one.close()

    asyncio.run(main())
    return ends, notes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(pool, "_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(member, "_PAUSE", 0.01)


@pytest.mark.parametrize(("rows", "nodes", "concurrency"), [(1, 1, 1), (7, 2, 3), (300, 3, 100), (50, 8, 1000)])
def test_every_row_runs_once(rows: int, nodes: int, concurrency: int) -> None:
    cluster = Cluster(*(f"node {number}" for number in range(nodes)))
    ends, notes = run(cluster, rows, concurrency=concurrency)
    assert ends == dict.fromkeys(range(1, rows + 1), "ok")
    assert sum(len(numbers) for _, numbers in cluster.calls) == rows
    assert max(len(numbers) for _, numbers in cluster.calls) <= concurrency
    assert notes == []
    assert cluster.ended == nodes


@pytest.mark.parametrize("deadly", [{1}, {30}, {5, 6}, {1, 20, 40}, set(range(1, 4))])
def test_a_row_that_ends_its_process_fails_alone(deadly: set[int]) -> None:
    cluster = Cluster("one", "two")
    cluster.deadly = deadly
    ends, _ = run(cluster, 40)
    assert {number for number, status in ends.items() if status == "failed"} == deadly
    assert len(ends) == 40
    assert all("5 processes died" in reason for reason in cluster.reasons)


@pytest.mark.parametrize(
    "error", [UnfitError("OPENAI_API_KEY is not set"), UnfitError("started by Fusion 0.1"), UsageError("no")]
)
def test_a_node_that_cannot_run_rows_is_left_out(error: FusionError) -> None:
    cluster = Cluster("good", "bad")
    cluster.faults["bad"] = error
    ends, notes = run(cluster, 100)
    assert len(ends) == 100
    assert cluster.used == {"good"}
    assert notes == [f"node bad runs no rows: {error}"]


def test_a_map_ends_if_no_node_can_run_rows() -> None:
    cluster = Cluster("one", "two")
    cluster.faults = {"one": UnfitError("no key here"), "two": UnfitError("no key there")}
    with pytest.raises(UnfitError, match="no key"):
        run(cluster, 3)


def test_a_map_ends_in_a_cluster_that_stays_empty() -> None:
    with pytest.raises(UsageError, match="no node with CPUs"):
        run(Cluster(), 3)


def test_a_head_that_does_not_answer_for_a_moment_is_asked_again() -> None:
    cluster = Cluster("one")
    cluster.unanswered = range(1, 4)
    assert len(run(cluster, 20)[0]) == 20


def test_a_map_ends_if_the_head_answers_no_more() -> None:
    cluster = Cluster("one")
    cluster.unanswered = range(1, 10_000)
    with pytest.raises(ConnectionError, match="does not answer"):
        run(cluster, 3)


def test_a_node_that_joins_gets_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_STUMBLES", 10_000)
    cluster = Cluster("first")

    def joined(name: str, numbers: tuple[int, ...]) -> FusionError | None:
        cluster.names = ["first", "second"]
        return None if "second" in cluster.used else StoreError("not yet")

    cluster.on_run = joined
    ends, _ = run(cluster, 400)
    assert len(ends) == 400
    assert cluster.used == {"first", "second"}


def test_a_node_that_leaves_gives_its_rows_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_STUMBLES", 10_000)
    cluster = Cluster("stays", "leaves")

    def left(name: str, numbers: tuple[int, ...]) -> FusionError | None:
        if name == "leaves":
            cluster.names, cluster.looks = ["stays"], 0
        return None if name == "stays" and cluster.names == ["stays"] and cluster.looks > 1 else StoreError("lost")

    cluster.on_run = left
    ends, notes = run(cluster, 200)
    assert len(ends) == 200
    assert notes == ["node leaves left the cluster; its rows go to other nodes"]


def test_a_store_that_fails_for_a_moment_is_tried_again() -> None:
    cluster = Cluster("one")
    cluster.on_run = lambda name, numbers: StoreError("the store restarts") if len(cluster.calls) < 4 else None
    assert len(run(cluster, 20)[0]) == 20


def test_a_store_that_stays_away_ends_the_map() -> None:
    cluster = Cluster("one", "two")
    cluster.on_run = lambda name, numbers: StoreError("the store is gone")
    with pytest.raises(StoreError, match="the store is gone"):
        run(cluster, 20)
