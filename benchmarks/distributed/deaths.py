"""Deaths: a discrete-event simulation of nodes that die while they work through the slices of a map."""

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from benchmarks.distributed.assumptions import Assumptions
from benchmarks.distributed.limits import Load


@dataclass
class Outcome:
    """The end of a map: seconds, deaths, and calls that were in flight at a death and are paid again."""

    seconds: float = 0.0
    ideal: float = 0.0
    deaths: int = 0
    calls: float = 0.0
    calls_again: float = 0.0

    @property
    def lost(self) -> float:
        """Return the share of the time that deaths cost."""
        return 1 - self.ideal / self.seconds

    @property
    def again(self) -> float:
        """Return the share of calls that are paid twice."""
        return self.calls_again / self.calls


@dataclass
class _Node:
    alive: bool = True
    held: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Rows left and the time of the start of each slice in work."""


class Deaths:
    """Nodes that work on slices, die, and are replaced. The same seed gives the same deaths."""

    def __init__(self, state: Load, given: Assumptions, seed: int) -> None:
        self._given = given
        self._random = random.Random(seed)
        self._lanes = max(1, round(given.slots / given.slice_rows))
        self._pace = state.runs / state.nodes / self._lanes
        self._calling = given.run_seconds / state.run_seconds
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._nodes = [_Node() for _ in range(state.nodes)]
        self._open = math.ceil(state.nodes * given.rows / given.slice_rows)
        self._queue = [given.slice_rows] * self._open
        rows = self._open * given.slice_rows
        self.outcome = Outcome(ideal=rows / state.runs, calls=rows * given.calls)

    def run(self) -> Outcome:
        """Simulate until the last slice ends."""
        for node in self._nodes:
            self._start(node, 0.0)
        while self._open:
            self.outcome.seconds, _, act = heapq.heappop(self._events)
            act(self.outcome.seconds)
        return self.outcome

    def _after(self, at: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), act))

    def _start(self, node: _Node, at: float) -> None:
        node.alive = True
        if self._given.deaths_a_day:
            life = self._random.expovariate(self._given.deaths_a_day / 86_400)
            self._after(at + life, partial(self._die, node))
        self._fill(at, node)

    def _fill(self, at: float, node: _Node) -> None:
        """Take slices for the free lanes of a node."""
        while self._queue and node.alive and len(node.held) < self._lanes:
            rows, number = self._queue.pop(), next(self._numbers)
            node.held[number] = (rows, at)
            self._after(at + rows / self._pace, partial(self._end, node, number))

    def _end(self, node: _Node, number: int, at: float) -> None:
        if node.held.pop(number, None) is not None:
            self._open -= 1
            self._fill(at, node)

    def _die(self, node: _Node, at: float) -> None:
        """Lose the calls in flight; finished ones are in the journal. Others take the slices over after a while."""
        self.outcome.deaths += 1
        for rows, began in node.held.values():
            left = math.ceil(max(1.0, rows - (at - began) * self._pace))
            self.outcome.calls_again += min(left, self._given.slots / self._lanes) * self._calling
            self._after(at + self._given.takeover_seconds, partial(self._return, left))
        node.held.clear()
        node.alive = False
        self._after(at + self._given.restart_seconds, partial(self._start, node))

    def _return(self, rows: float, at: float) -> None:
        self._queue.append(rows)
        free = (node for node in self._nodes if node.alive and len(node.held) < self._lanes)
        if (node := next(free, None)) is not None:
            self._fill(at, node)
