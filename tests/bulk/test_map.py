"""A map runs each row once, goes on from the store, and writes every row once."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, MapReport, Pipeline, Price, Request, RowResult, Say, ScriptedModel, UsageError
from fusion.core.errors import InputError, RunBusyError, StageError
from tests.conftest import said
from tests.processes import exit_code

TWO = """
name: two
inputs: {text: A ticket.}
stages:
  read: {kind: generate, role: bulk, prompt: "READ {{ inputs.text }}"}
  answer: {kind: generate, role: bulk, prompt: "ANSWER {{ read }}", max_tokens: 50}
output: answer
"""
CENT = Price(input=Decimal(0), output=Decimal(10_000))


def tickets(*numbers: int, more: str = "") -> list[dict[str, str]]:
    return [{"id": f"T{number}", "text": f"ticket {number}{more}"} for number in numbers]


class Desk:
    """A Fusion on one store, whose scripted model counts what it is asked; `broken` texts fail."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.folder = folder
        self.asked: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.on_call: Callable[[str], None] = lambda text: None
        self.more = more
        self.output = folder / "out.jsonl"

    def script(self, request: Request) -> Say | str:
        text = said(request)
        self.asked[text] += 1
        self.on_call(text)
        if any(one in text for one in self.broken):
            return Say(error=StageError("cannot read this"))
        return text.lower()

    def fusion(self) -> Fusion:
        model = ScriptedModel(self.script, price=CENT)
        return Fusion(roles={"bulk": model}, store=self.folder / "runs.db", **self.more)

    def map(self, inputs: Any, *, pipeline: str = TWO, **options: Any) -> tuple[dict[str, RowResult], MapReport]:
        """Return the rows by key, and the report."""
        given = {"pipeline": Pipeline.from_yaml(pipeline), "id": "m", "key": "id", "output": self.output, **options}
        with self.fusion() as fusion:
            rows = fusion.map(inputs, **given)
            found = {row.key: row for row in rows}
            assert rows.report is not None
            return found, rows.report

    def start(self, fusion: Fusion, inputs: Any, **options: Any) -> Any:
        given = {"pipeline": Pipeline.from_yaml(TWO), "id": "m", "key": "id", "output": self.output, **options}
        return fusion.start_map(inputs, **given)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    @property
    def written(self) -> dict[str, str]:
        """The answer of each row in the output, in which none is twice."""
        keys = [line["key"] for line in self.lines]
        assert len(keys) == len(set(keys)), keys
        return {line["key"]: line["answer"] for line in self.lines}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def answers(*numbers: int, more: str = "") -> dict[str, str]:
    return {f"T{number}": f"answer read ticket {number}{more}" for number in numbers}


def test_every_row_is_run_and_written_once(desk: Desk) -> None:
    rows, report = desk.map(tickets(*range(40)))
    assert {key: row.text for key, row in rows.items()} == answers(*range(40)) == desk.written
    assert (report.status, report.rows, report.ok, report.kept, report.exit_code) == ("ok", 40, 40, 0, 0)
    assert max(desk.asked.values()) == 1
    assert all(row.run_id == f"m-{row.number}" and row.cost.usd for row in rows.values())


def test_a_second_pass_asks_nothing_and_hands_the_answers_out(desk: Desk) -> None:
    first, _ = desk.map(tickets(*range(10)))
    before, calls = desk.output.read_bytes(), desk.asked.total()
    again, report = desk.map(tickets(*range(10)))
    assert desk.asked.total() == calls
    assert desk.output.read_bytes() == before
    assert report.kept == 10
    assert {key: row.text for key, row in again.items()} == {key: row.text for key, row in first.items()}


@pytest.mark.parametrize("order", ["behind", "before", "between"])
def test_a_grown_input_runs_what_is_new(desk: Desk, order: str) -> None:
    desk.map(tickets(1, 2, 3))
    calls = desk.asked.total()
    grown = {"behind": (1, 2, 3, 4, 5), "before": (4, 5, 1, 2, 3), "between": (1, 4, 2, 5, 3)}[order]
    _, report = desk.map(tickets(*grown))
    assert desk.asked.total() == calls + 4
    assert desk.written == answers(1, 2, 3, 4, 5)
    assert (report.rows, report.kept) == (5, 3)


def test_a_changed_prompt_runs_what_it_changes(desk: Desk) -> None:
    desk.map(tickets(1, 2, 3))
    first = dict(desk.asked)
    edited = TWO.replace("ANSWER", "REPLY to")
    rows, report = desk.map(tickets(1, 2, 3), pipeline=edited)
    assert {text for text in desk.asked if desk.asked[text] != first.get(text)} == {
        f"REPLY to read ticket {number}" for number in (1, 2, 3)
    }
    assert desk.written == {f"T{n}": f"reply to read ticket {n}" for n in (1, 2, 3)}
    assert {row.run_id for row in rows.values()} == {"m-1-g2", "m-2-g2", "m-3-g2"}
    assert any("changed" in note for note in report.notes)
    desk.map(tickets(1, 2, 3))
    assert max(desk.asked.values()) == 1, "the first prompt again is answered from the first runs"


def test_a_row_that_changes_runs_again_and_its_line_is_replaced(desk: Desk) -> None:
    desk.map(tickets(1, 2, 3))
    order = [line["key"] for line in desk.lines]
    desk.map([*tickets(1), *tickets(2, more=" now"), *tickets(3)])
    assert [line["key"] for line in desk.lines] == order
    assert desk.written == {**answers(1, 3), **answers(2, more=" now")}


def test_a_failed_row_is_kept_until_it_is_asked_for_again(desk: Desk) -> None:
    desk.broken = {"ANSWER read ticket 2"}
    rows, report = desk.map(tickets(1, 2, 3))
    assert (report.status, report.failed, report.exit_code) == ("partial", 1, 3)
    assert rows["T2"].failure is not None
    assert "cannot read" in rows["T2"].failure.message
    assert desk.written == {**answers(1, 3), "T2": None}
    desk.broken = set()
    calls = desk.asked.total()
    _, report = desk.map(tickets(1, 2, 3))
    assert (report.failed, report.exit_code, desk.asked.total()) == (1, 3, calls)
    _, report = desk.map(tickets(1, 2, 3), retry_failed=True)
    assert (report.status, report.exit_code) == ("ok", 0)
    assert desk.asked.total() == calls + 1, "what had finished in the row is not asked again"
    assert desk.written == answers(1, 2, 3)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"id": "T2"}, "text"),
        ({"id": "T2", "text": None}, "text"),
        ({"id": "T2", "text": ""}, "text"),
    ],
)
def test_a_row_without_an_input_fails_by_itself(desk: Desk, wrong: dict[str, Any], words: str) -> None:
    rows, report = desk.map([*tickets(1), wrong, *tickets(3)])
    assert (report.ok, report.failed, report.exit_code) == (2, 1, 3)
    failure = rows["T2"].failure
    assert failure is not None
    assert failure.reason == "InputError"
    assert words in failure.message
    calls = desk.asked.total()
    _, report = desk.map(tickets(1, 2, 3))
    assert (report.exit_code, desk.asked.total(), desk.written) == (0, calls + 2, answers(1, 2, 3))


@pytest.mark.parametrize("torn", [1, 5, 20, 60])
def test_a_torn_last_line_is_cut_and_written_whole(desk: Desk, torn: int) -> None:
    desk.map(tickets(1, 2, 3))
    raw = desk.output.read_bytes()
    last = raw.rstrip(b"\n").rfind(b"\n") + 1
    desk.output.write_bytes(raw[: last + torn])
    calls = desk.asked.total()
    desk.map(tickets(1, 2, 3))
    assert (desk.written, desk.asked.total()) == (answers(1, 2, 3), calls)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_lost_output_is_written_from_the_store(desk: Desk, kept: int) -> None:
    desk.map(tickets(1, 2, 3))
    lines = desk.output.read_text().splitlines(keepends=True)
    desk.output.write_text("".join(lines[:kept]))
    calls = desk.asked.total()
    desk.map(tickets(1, 2, 3))
    assert (desk.written, desk.asked.total()) == (answers(1, 2, 3), calls)


def test_another_output_gets_all_rows(desk: Desk, tmp_path: Path) -> None:
    desk.map(tickets(1, 2, 3))
    calls, desk.output = desk.asked.total(), tmp_path / "other.jsonl"
    desk.map(tickets(1, 2, 3))
    assert (desk.written, desk.asked.total()) == (answers(1, 2, 3), calls)


def test_equal_rows_are_told_apart(desk: Desk) -> None:
    same = [{"text": "same"}] * 5
    rows, report = desk.map([*same, {"text": "other"}, *same], key=None)
    assert report.rows == 11
    keys = sorted(rows)
    digests = {key.partition("#")[0] for key in keys}
    assert len(digests) == 2
    assert {key.partition("#")[2] for key in keys} == {"", *(str(k) for k in range(2, 11))}
    calls = desk.asked.total()
    _, report = desk.map([*same, {"text": "other"}, *same, {"text": "same"}], key=None)
    assert (report.kept, report.rows) == (11, 12)
    assert desk.asked.total() == calls + 2


def test_equal_rows_far_apart_are_told_apart(desk: Desk) -> None:
    rows = [{"text": f"row {number % 150}"} for number in range(450)]
    _, report = desk.map(rows, key=None, pipeline=TWO.replace("READ {{ inputs.text }}", "READ"))
    assert (report.rows, report.ok) == (450, 450)
    assert len(desk.written) == 450


@pytest.mark.parametrize("at", [1, 5, 90])
def test_a_key_that_comes_twice_ends_the_map_and_keeps_the_rows_before(desk: Desk, at: int) -> None:
    rows = [*tickets(*range(100)), *tickets(at)]
    with desk.fusion() as fusion:
        found = fusion.map(rows, pipeline=Pipeline.from_yaml(TWO), id="m", key="id", output=desk.output)
        with pytest.raises(InputError, match=rf"'T{at}' is that of row {at + 1} too"):
            list(found)
        assert found.report is not None
        assert (found.report.status, found.report.exit_code) == ("failed", 2)
    kept = len(desk.written)
    calls = desk.asked.total()
    _, report = desk.map(tickets(*range(100)))
    assert report.kept >= kept
    assert (desk.written, desk.asked.total() - calls) == (answers(*range(100)), 2 * (100 - report.kept))


@pytest.mark.parametrize("key", [{"id": None}, {"id": " "}, {"id": []}, {}, {"id": "x" * 501}])
def test_a_row_without_a_key_ends_the_map(desk: Desk, key: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="key"):
        desk.map([*tickets(1), {"text": "t", **key}])


def test_rows_come_in_the_order_of_the_inputs(desk: Desk) -> None:
    numbers = [7, 3, 9, 1, 5, *range(20, 60)]
    rows, _ = desk.map(tickets(*numbers), ordered=True, concurrency=4)
    assert list(rows) == [f"T{number}" for number in numbers]
    assert [line["key"] for line in desk.lines] == list(rows)
    assert [row.position for row in rows.values()] == list(range(1, len(numbers) + 1))


def test_an_ordered_map_reads_little_ahead(desk: Desk) -> None:
    read = 0

    def rows() -> Iterator[dict[str, str]]:
        nonlocal read
        for row in tickets(*range(200)):
            read += 1
            yield row

    with desk.fusion() as fusion:
        given = {"pipeline": Pipeline.from_yaml(TWO), "id": "m", "key": "id", "ordered": True, "concurrency": 4}
        with fusion.map(rows(), **given) as found:
            for number, _ in enumerate(found, start=1):
                assert read <= number + 300
                if number == 20:
                    break
    assert read <= 20 + 4 * 4 + 256


@pytest.mark.parametrize(("option", "value", "count"), [("limit", 5, 5), ("sample", 5, 5), ("limit", 500, 30)])
def test_some_of_the_rows_are_run(desk: Desk, option: str, value: int, count: int) -> None:
    rows, report = desk.map(tickets(*range(30)), **{option: value})
    assert (len(rows), report.rows, report.gone) == (count, count, 0)
    _, report = desk.map(tickets(*range(30)))
    assert (report.kept, report.ok) == (count, 30)


def test_a_sample_is_the_same_each_time_and_not_the_first_rows(desk: Desk) -> None:
    first, _ = desk.map(tickets(*range(100)), sample=10)
    again, report = desk.map(list(reversed(tickets(*range(100)))), sample=10)
    assert set(first) == set(again)
    assert report.kept == 10
    assert set(first) != {f"T{number}" for number in range(10)}


@pytest.mark.parametrize(
    ("options", "failing", "code", "early"),
    [
        ({"fail_fast": True}, 1, 3, True),
        ({"max_failed": 0}, 1, 3, True),
        ({"max_failed": 3}, 3, 0, False),
        ({"max_failed": 3}, 5, 3, True),
        ({"max_failed": "5%"}, 6, 0, False),
        ({"max_failed": "5%"}, 60, 3, True),
        ({"max_failed": "100%"}, 300, 0, False),
        ({}, 300, 3, False),
    ],
)
def test_failed_rows_end_a_map_as_it_says(
    desk: Desk, options: dict[str, Any], failing: int, code: int, early: bool
) -> None:
    desk.broken = {f"READ ticket {number}!" for number in range(0, 300, 300 // failing)}
    rows = [{"id": f"T{number}", "text": f"ticket {number}!"} for number in range(300)]
    with desk.fusion() as fusion:
        report = desk.start(fusion, rows, **options).wait()
    assert report.exit_code == code
    assert (report.failure is not None) == early
    assert [(one.count, one.failure.message) for one in report.failures] == [(report.failed, "cannot read this")]
    desk.broken = set()
    _, report = desk.map(rows, retry_failed=True)
    assert (report.ok, report.exit_code) == (300, 0)
    assert all(count == 1 for text, count in desk.asked.items() if text.startswith("ANSWER"))


def test_a_budget_over_all_rows_ends_the_map_and_a_higher_one_goes_on(desk: Desk) -> None:
    with desk.fusion() as fusion:
        report = desk.start(fusion, tickets(*range(50)), budget={"calls": 21}).wait()
    assert report.exit_code == 4
    assert desk.asked.total() <= 21
    assert report.failure is not None
    assert "the map" in report.failure.message
    assert report.waiting > 0
    assert set(desk.written) <= set(answers(*range(50)))
    with desk.fusion() as fusion:
        report = desk.start(fusion, tickets(*range(50)), budget={"calls": 21}).wait()
    assert report.exit_code == 4
    assert desk.asked.total() <= 21, "the spending of earlier passes counts"
    _, report = desk.map(tickets(*range(50)), budget={"calls": 100})
    assert (report.exit_code, desk.written) == (0, answers(*range(50)))
    assert max(desk.asked.values()) == 1


def test_a_pipeline_s_own_budget_fails_its_row_alone(desk: Desk) -> None:
    tight = TWO + "budget: {calls: 1}\n"
    rows, report = desk.map(tickets(1, 2), pipeline=tight)
    assert (report.failed, report.exit_code, report.failure) == (2, 3, None)
    assert all(row.failure is not None and row.failure.reason == "BudgetError" for row in rows.values())


@pytest.mark.parametrize("at", [1, 7, 30, 59])
def test_a_cancelled_map_goes_on_where_it_was(desk: Desk, at: int) -> None:
    with desk.fusion() as fusion:
        handles: list[Any] = []

        def stop(text: str) -> None:
            if desk.asked.total() == at and handles:
                handles[0].stop()

        desk.on_call = stop
        handles.append(desk.start(fusion, tickets(*range(30)), concurrency=3))
        report = handles[0].wait()
        assert (report.status, report.exit_code) == ("interrupted", 130)
    desk.on_call = lambda text: None
    _, report = desk.map(tickets(*range(30)))
    assert (report.exit_code, desk.written) == (0, answers(*range(30)))
    assert sum(count - 1 for count in desk.asked.values()) <= 3, "the calls in flight alone are made again"


def test_an_iterator_that_is_left_stops_the_map(desk: Desk) -> None:
    with desk.fusion() as fusion:
        given = {"pipeline": Pipeline.from_yaml(TWO), "id": "m", "key": "id", "output": desk.output}
        with fusion.map(tickets(*range(200)), concurrency=2, **given) as rows:
            next(rows)
        assert rows.report is not None
        assert rows.report.status == "interrupted"
        _, report = desk.map(tickets(*range(200)))
    assert (report.exit_code, len(desk.written)) == (0, 200)


@pytest.mark.anyio
async def test_rows_come_to_a_running_loop(desk: Desk) -> None:
    async with desk.fusion() as fusion:
        given = {"pipeline": Pipeline.from_yaml(TWO), "id": "m", "key": "id", "output": desk.output}
        found = {row.key: row.text async for row in fusion.amap(tickets(*range(20)), **given)}
    assert found == answers(*range(20)) == desk.written


def test_one_map_runs_once_at_a_time(desk: Desk) -> None:
    with desk.fusion() as fusion, desk.fusion() as other:
        given = {"pipeline": Pipeline.from_yaml(TWO), "id": "m", "key": "id"}
        with fusion.map(tickets(*range(50)), concurrency=1, **given) as rows:
            next(rows)
            with pytest.raises(RunBusyError, match="the map 'm' is running already"):
                other.map(tickets(1), **given)
            with pytest.raises(RunBusyError):
                other.resume("m-50") if other.store.run("m-50") else other.resume("m-1")
        assert next(other.map(tickets(1), **given)).kept


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"id": "a/b"}, "the id of a map is 'a/b'"),
        ({"limit": 0}, "limit is 0"),
        ({"sample": -1}, "sample is -1"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"max_failed": "many"}, "max_failed is 'many'"),
        ({"max_failed": "120%"}, "max_failed is '120%'"),
        ({"max_failed": 2, "fail_fast": True}, "--max-failed"),
        ({"columns": {"txt": "text"}}, "no input 'txt'"),
        ({"constants": {"task": 1}}, "no input 'task'"),
        ({"output": "nowhere/out.jsonl"}, "no folder"),
        ({"output": "out.doc"}, "ends in"),
    ],
)
def test_wrong_options_are_refused_before_any_call(desk: Desk, options: Mapping[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        desk.map(tickets(1), **options)
    assert not desk.asked


def test_an_unknown_option_is_a_type_error(desk: Desk) -> None:
    with pytest.raises(TypeError, match="did you mean 'limit'"):
        desk.map(tickets(1), limits=3)


def test_a_map_needs_a_store(tmp_path: Path) -> None:
    with Fusion(model=ScriptedModel("x")) as fusion, pytest.raises(UsageError, match="a map needs a store"):
        fusion.map(tickets(1), pipeline=Pipeline.from_yaml(TWO))


@pytest.mark.parametrize("content", ["digest", "off"])
def test_a_map_needs_its_answers_kept(tmp_path: Path, content: Any) -> None:
    desk = Desk(tmp_path, content=content)
    with pytest.raises(UsageError, match='content = "full"'):
        desk.map(tickets(1))


def test_an_id_belongs_to_one_pipeline(desk: Desk) -> None:
    desk.map(tickets(1))
    with pytest.raises(UsageError, match="is of the pipeline 'two', not 'other'"):
        desk.map(tickets(1), pipeline=TWO.replace("name: two", "name: other"))


def test_other_prices_leave_answers_current(desk: Desk, tmp_path: Path) -> None:
    desk.map(tickets(1, 2))
    calls = desk.asked.total()
    with Fusion(
        roles={"bulk": ScriptedModel(desk.script, price=Price(input=Decimal(1), output=Decimal(2)))},
        store=tmp_path / "runs.db",
    ) as fusion:
        report = desk.start(fusion, tickets(1, 2)).wait()
    assert (report.kept, desk.asked.total()) == (2, calls)


# Kills.


def _die(folder: str, at: int, rows: int) -> None:
    desk = Desk(Path(folder))

    def record(text: str) -> None:
        if desk.asked.total() >= at:
            os._exit(9)
        with Path(folder, "asked.txt").open("a") as log:
            log.write(f"{text}\n")

    desk.on_call = record
    desk.map(tickets(*range(rows)), concurrency=8)
    os._exit(0)


def test_a_map_that_is_killed_again_and_again_loses_and_repeats_nothing(desk: Desk) -> None:
    rows, kills = 60, 0
    for at in (1, 3, 17, 40, 9, 2, 1000):
        kills += exit_code(_die, str(desk.folder), at, rows) == 9
    assert kills >= 5
    assert desk.written == answers(*range(rows))
    asked = Counter((desk.folder / "asked.txt").read_text().splitlines())
    assert set(asked) >= {f"READ ticket {number}" for number in range(rows)}
    assert sum(count - 1 for count in asked.values()) <= 8 * kills, "calls in flight at a kill alone are made again"


def test_one_row_is_resumed_like_any_run(desk: Desk) -> None:
    desk.broken = {"ANSWER read ticket 2"}
    desk.map(tickets(1, 2))
    desk.broken = set()
    with desk.fusion() as fusion:
        assert fusion.resume("m-2").text == "answer read ticket 2"
    _, report = desk.map(tickets(1, 2))
    assert (report.ok, report.kept, desk.written) == (2, 2, answers(1, 2))


def test_options_of_the_answer_hold_for_each_row_and_change_its_record(desk: Desk) -> None:
    rows, _ = desk.map(tickets(1, 2), answer={"max_tokens": 2})
    assert {row.text for row in rows.values()} == {"answer r"}
    again, _ = desk.map(tickets(1, 2), answer={"max_tokens": 2})
    assert sum(desk.asked.values()) == 4
    other, _ = desk.map(tickets(1, 2), answer={"max_tokens": 20})
    assert {row.text for row in other.values()} == {"answer read ticket 1", "answer read ticket 2"}
    assert sum(desk.asked.values()) == 6
    assert len(again) == 2
