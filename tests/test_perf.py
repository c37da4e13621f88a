"""Small sizes of every benchmark in benchmarks/perf: they run, and what they measure is not far from its bar."""

import asyncio
import gc
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.perf import (
    budget,
    contest,
    dataflow,
    engine,
    rows,
    sandbox,
    served,
    start,
    store,
    tools,
    tracing,
    wire,
)
from fusion import Fusion
from fusion.bench import Suite


def test_an_item_costs_no_more_among_many_than_among_few() -> None:
    with engine.engine() as made:
        made.cpu_of(500)
        few = min(made.cpu_of(200) / 200 for _ in range(5))
        many = min(made.cpu_of(2000) / 2000 for _ in range(3))
    assert many < 1.5 * few
    assert many < 0.0015, "seconds of CPU for one item"


def test_a_map_of_a_thousand_adds_little_memory() -> None:
    """In a process of its own, whose peak is that of nothing else."""
    script = "from benchmarks.perf.engine import measure; print(measure((100, 1000), 1)[0])"
    ran = subprocess.run([sys.executable, "-c", script], cwd=start.ROOT, capture_output=True, text=True, check=True)
    assert 0 < float(ran.stdout) < 40


def test_a_process_holds_nothing_of_runs_that_are_over() -> None:
    def held() -> int:
        gc.collect()
        return len(gc.get_objects())

    with engine.engine() as made:
        made.cpu_of(200)
        before = held()
        for _ in range(5):
            made.cpu_of(200)
        assert held() - before < 200, "objects; each run makes thousands"


def test_a_row_costs_little_more_than_its_calls() -> None:
    """A run of six calls: by the processor, over the same calls of the model alone, taken in turn."""
    taken, bare = asyncio.run(rows.measure(50, 5, stored=False))
    assert min(taken) < 60 * min(bare), "milliseconds of CPU"


@pytest.mark.parametrize("stored", [False, True])
def test_rows_that_are_over_leave_nothing_to_collect_and_nothing_behind(stored: bool) -> None:
    """Without the garbage collector: what a run made is gone with its last reference."""

    async def left() -> int:
        async with rows.rows(stored=stored) as made:
            gc.collect()
            gc.disable()
            try:
                await made.cpu_of(100)
                return gc.collect()
            finally:
                gc.enable()

    assert asyncio.run(left()) < 300, "objects; each run makes hundreds"


def test_items_that_flow_come_long_before_barriers_would_let_them() -> None:
    flowing, joined = dataflow.measure(1, 0.1)
    assert joined[0] >= 0.1 * dataflow.BARRIERS
    assert 0.1 * dataflow.BOUND <= flowing[0] < 0.8 * joined[0]


def test_each_call_is_sent_once_however_many_are_in_flight() -> None:
    sizes = [wire.Size(200), wire.Size(8, runs=20, latency=20)]
    figures = wire.measure(("aiohttp", "fusion"), sizes, 1)
    assert figures.miscounted == 0
    for size in sizes:
        assert figures.ratio(lambda one: one.cpu, size, "fusion", "aiohttp") > 1
        assert min(figures.rate("fusion", size)) > 0


def test_commands_start_quickly() -> None:
    names = [name for name, command in start.COMMANDS.items() if command.bar is not None]
    for name, used in start.measure(names, 2).items():
        assert min(one.cpu for one in used) < 2 * (start.COMMANDS[name].bar or 0)
        assert all(one.request is None or 0 < one.request < one.wall for one in used)


async def _uncontended() -> list[float]:
    return [await budget.uncontended(2, times=500) for _ in range(3)]


def test_the_budgets_own_figures_can_be_taken() -> None:
    assert statistics.median(asyncio.run(_uncontended())) < 500
    assert asyncio.run(budget.contended(50, at_stage=True)) > 0
    assert len(asyncio.run(budget.wrapped(times=20))) == 4
    storm = budget.Storm(7, 60)
    asyncio.run(storm.blow())
    assert storm.highest <= 1
    assert storm.run.reserved.usd == 0


def test_keeping_a_call_costs_little() -> None:
    assert min(store.added("normal", 1000, 200).cpu for _ in range(3)) < 0.4, "milliseconds of CPU"


def test_a_store_of_many_calls_is_listed_shown_and_emptied() -> None:
    said = list(store.large(3000))
    assert said[0].startswith("3 runs of 1,000 calls: ")
    assert said[4].startswith("1 runs of 3,000 calls: ")


def test_a_benchmark_of_recorded_answers_is_the_same_once_they_are_kept(tmp_path: Path) -> None:
    suite = Suite.model_validate(contest.described(13, 5))
    with Fusion(profile="local") as fusion:
        asked = contest.measured("asked", suite, str(tmp_path), fusion)
        assert contest.measured("kept", suite, str(tmp_path), fusion) == asked
    assert len(asked) == 13


def test_tracing_a_call_costs_a_few_bare_spans() -> None:
    taken = tracing.measure(200, 3, ways=("off", "recorded", "bare"))
    assert min(tracing.added(taken, "recorded")) < 6 * min(taken["bare"])


def test_a_served_run_costs_little_more_than_one_in_process() -> None:
    for figures in served.measure([1], runs=20, repeat=1).values():
        assert 0 < min(one.cpu for one in figures.served) < 3 * min(one.cpu for one in figures.program)


def test_a_call_of_a_tool_costs_little_more_than_that_of_the_client_of_its_protocol() -> None:
    taken = tools.measure(100, 2)
    assert min(taken["fusion"]) < 6 * min(taken["client"]), "milliseconds of CPU"


@pytest.mark.needs("bwrap")
def test_a_sandbox_costs_a_fraction_of_a_second() -> None:
    """By the clock, the least of a few, over the same command bare in the same run; then in an interpreter."""
    least = {name: min(clock) for name, (clock, _) in sandbox.in_turn(sandbox.ways(), 4).items()}
    assert least["true, bubblewrap"] - least["true, bare"] < 250, "milliseconds"
    assert least["python, bubblewrap"] - least["python, bare"] < 400, "milliseconds"
    assert least["python, monty"] < 40, "milliseconds"
