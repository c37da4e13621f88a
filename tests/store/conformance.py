"""What every Store does, whatever it keeps runs in: a suite to inherit from, with a `store` fixture that makes one.

class TestMine(StoreConformance):
    @pytest.fixture
    def store(self) -> Iterator[Store]: ...

    @pytest.fixture
    def small(self) -> Iterator[Store]: ...  # its cache holds SMALL bytes
"""

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from fusion.core.errors import RunBusyError, StoreError
from fusion.core.types import CallKey, Failure, File, Message, Reply, Request, Usage, Waited
from fusion.store.base import Store
from fusion.store.encoding import as_json
from fusion.store.rows import (
    Attempt,
    AttemptEnd,
    AttemptState,
    Cached,
    Call,
    CallIndex,
    Decision,
    Ended,
    Line,
    Noticed,
    Row,
    RunFilter,
    RunStatus,
    SessionStart,
    SetAside,
    Spending,
    Started,
)

__all__ = ["SMALL", "StoreConformance", "attempt", "call", "ended", "key", "reply", "session", "started", "work"]

SMALL = 10_000
BOOM = Failure(reason="ModelTimeoutError", message="no answer in 3 s")
PICTURE = File(media_type="image/png", data=bytes(range(256)) * 40, name="graph.png")


# Rows to put.


def started(run_id: str = "r1", **more: Any) -> Started:
    row = Started(run_id, None, run_id, "plan", "local", 100.0, {}, "full", "f1", '{"inputs":{"task":"Émile"}}')
    return replace(row, **more)


def session(run_id: str = "r1", number: int = 1, at: float = 100.0) -> SessionStart:
    return SessionStart(run_id, number, at)


def ended(run_id: str = "r1", **more: Any) -> Ended:
    return replace(Ended(run_id, 1, "ok", 130.0, Decimal("0.50"), 1, 7, None, '{"text":"done"}'), **more)


def key(number: int = 1, **more: Any) -> CallKey:
    return CallKey(**{"stage": "work", "item": number, "step": "work", "digest": f"{number:064x}", **more})


def reply(text: str = "an answer", **more: Any) -> Reply:
    usage = Usage(input=10, cached_read=4, cache_write=2, output=5, reasoning=1)
    given = {"usage": usage, "cost": Decimal("0.0001"), "latency": 0.25, "first_token": 0.125, **more}
    return Reply(**{"text": text, "finish_reason": "stop", "asked": "a/one", "served": "one-2026", **given})


def request(text: str = "Do it.", **more: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **{"max_tokens": 100, **more})


def call(number: int = 1, run_id: str = "r1", **more: Any) -> Call:
    row = Call(run_id, number, key(number), "bulk", "a/one", "finished", 101.0, 102.0, request(), reply())
    return replace(row, **more)


def attempt(number: int = 1, run_id: str = "r1", **more: Any) -> Attempt:
    row = Attempt(run_id, 1, number, "work", number, "work", "bulk", "a/one", 101.0, Decimal("0.01"), 900)
    return replace(row, **more)


def end(number: int = 1, run_id: str = "r1", **more: Any) -> AttemptEnd:
    return replace(AttemptEnd(run_id, 1, number, "settled", 102.0, Decimal("0.0001"), 15), **more)


def work(number: int = 1, run_id: str = "r1") -> tuple[Row, ...]:
    """All that a call leaves."""
    return attempt(number, run_id), end(number, run_id), call(number, run_id)


def kept(store: Store, *rows: Row) -> Store:
    """The store with these rows written."""
    store.put(*rows)
    store.flush()
    return store


def random_text(length: int) -> str:
    """A text that does not get shorter by being compressed."""
    return "".join(Random(length).choices("".join(map(chr, range(32, 127))), k=length))


class StoreConformance:
    """The suite. Needs the fixtures `store` and `small`: empty, and closed by whoever made them."""

    # Runs.

    def test_a_run_is_as_it_was_started(self, store: Store) -> None:
        about = started(parent="r0", root="r0", tags={"team": "a", 'odd "key"': "é"}, profile="mixed")
        kept(store, about)
        row = store.run("r1")
        assert row is not None
        assert (row.run_id, row.parent, row.root, row.pipeline, row.profile) == ("r1", "r0", "r0", "plan", "mixed")
        assert (row.status, row.started, row.ended, row.seconds, row.sessions) == ("running", 100.0, None, 0.0, 0)
        assert (dict(row.tags), row.content, row.fingerprint) == (about.tags, "full", "f1")
        assert (row.usd, row.unknown_calls, row.calls, row.failure) == (Decimal(0), 0, 0, None)
        assert store.record("r1") == {"inputs": {"task": "Émile"}}
        assert store.result("r1") is None

    def test_what_is_not_there_is_none_or_empty(self, store: Store) -> None:
        assert [store.run("r1"), store.record("r1"), store.result("r1"), store.call("r1", 1)] == [None] * 4
        assert [*store.index("r1"), *store.calls("r1"), *store.attempts("r1"), *store.events("r1")] == []
        assert (store.decisions("r1"), store.lines("r1"), store.spending("r1")) == ([], [], {})
        assert (store.runs(RunFilter()), store.run_ids(""), store.last_numbers("r1")) == ([], [], (0, 0))
        assert (store.lose_open("r1"), store.remove(["r1"]), store.clear_cache()) == (0, 0, 0)

    def test_rows_of_a_run_that_is_not_there_are_not_kept(self, store: Store) -> None:
        kept(store, session(), *work(), Decision("r1", "work", None, "drop", 1), Noticed("r1", 1, "{}"), ended())
        kept(store, started())
        assert list(store.calls("r1")) == []
        assert store.decisions("r1") == []
        row = store.run("r1")
        assert row is not None
        assert (row.status, row.sessions) == ("running", 0)

    def test_the_first_to_start_a_run_wins(self, store: Store) -> None:
        kept(store, started(), started(pipeline="other", record='{"other":1}'))
        row = store.run("r1")
        assert row is not None
        assert (row.pipeline, store.record("r1")) == ("plan", {"inputs": {"task": "Émile"}})

    def test_a_run_without_content_has_no_record_and_no_result(self, store: Store) -> None:
        kept(store, started(content="off", record=None), session(), ended(result=None))
        assert (store.record("r1"), store.result("r1")) == (None, None)

    def test_an_ended_run_says_what_its_receipt_said(self, store: Store) -> None:
        kept(store, started(), session(), *work(), ended(status="failed", failure=BOOM))
        row = store.run("r1")
        assert row is not None
        assert (row.status, row.ended, row.seconds, row.sessions) == ("failed", 130.0, 30.0, 1)
        assert (row.usd, row.unknown_calls, row.calls, row.failure) == (Decimal("0.50"), 1, 7, BOOM)
        assert store.result("r1") == {"text": "done"}

    def test_a_run_that_is_taken_up_again_is_running(self, store: Store) -> None:
        kept(store, started(), session(), ended(status="interrupted"), session(number=2, at=200.0))
        row = store.run("r1")
        assert row is not None
        assert (row.status, row.ended, row.sessions, row.failure) == ("running", None, 2, None)
        assert store.result("r1") is None
        kept(store, ended(session=2, ended=207.0, result='{"text":"at last"}'))
        row = store.run("r1")
        assert row is not None
        assert (row.status, row.ended, row.seconds) == ("ok", 207.0, 37.0)
        assert store.result("r1") == {"text": "at last"}

    def test_a_session_that_was_killed_counts_up_to_its_last_sign(self, store: Store) -> None:
        kept(store, started(), session(), attempt(opened=105.0), end(closed=110.0), call(ended=112.0))
        row = store.run("r1")
        assert row is not None
        assert row.seconds == 12.0
        kept(store, session(number=2, at=1000.0), attempt(2, session=2, opened=1003.0))
        row = store.run("r1")
        assert row is not None
        assert (row.seconds, row.sessions) == (15.0, 2)

    def test_the_end_of_an_earlier_session_changes_nothing(self, store: Store) -> None:
        kept(store, started(), session(), session(number=2, at=200.0), ended(session=1))
        row = store.run("r1")
        assert row is not None
        assert (row.status, store.result("r1")) == ("running", None)

    @pytest.mark.parametrize(
        ("rows", "status", "sessions", "seconds", "result", "calls"),
        [
            ((started(), session(), *work(), ended()), "ok", 1, 30.0, {"text": "done"}, 1),
            ((session(), *work(), started(), session(), call(2)), "running", 1, 2.0, None, 1),
            ((started(), session(), ended(), session(number=2, at=200.0), call(2)), "running", 2, 30.0, None, 1),
            (
                (started(), session(), session(number=2, at=200.0), ended(session=1), ended(session=2, ended=203.0)),
                "ok",
                2,
                3.0,
                {"text": "done"},
                0,
            ),
            ((started(), session(), ended(), ended(result='{"text":"late"}')), "ok", 1, 30.0, {"text": "done"}, 0),
            ((started(), session(), ended(), started(record="{}"), *work()), "ok", 1, 30.0, {"text": "done"}, 1),
        ],
    )
    @pytest.mark.parametrize("at_once", [True, False])
    def test_rows_of_many_runs_mean_the_same_at_once(
        self,
        store: Store,
        rows: tuple[Row, ...],
        status: str,
        sessions: int,
        seconds: float,
        result: object,
        calls: int,
        at_once: bool,
    ) -> None:
        others = (started("r0"), session("r0"), *work(1, "r0"), ended("r0"))
        for some in [(*others[:2], *rows, *others[2:])] if at_once else [(row,) for row in (*others, *rows)]:
            kept(store, *some)
        row = store.run("r1")
        assert row is not None
        assert (row.status, row.sessions, row.seconds) == (status, sessions, seconds)
        assert (store.result("r1"), len(list(store.calls("r1")))) == (result, calls)
        assert store.record("r1") == {"inputs": {"task": "Émile"}}
        other = store.run("r0")
        assert other is not None
        assert (other.status, other.seconds, store.last_numbers("r0")) == ("ok", 30.0, (1, 0))

    def test_runs_come_newest_first(self, store: Store) -> None:
        kept(store, *(started(f"r{n}", started=float(n)) for n in (2, 1, 3)))
        assert [row.run_id for row in store.runs(RunFilter())] == ["r3", "r2", "r1"]
        assert [row.run_id for row in store.runs(RunFilter(), limit=2)] == ["r3", "r2"]

    @pytest.mark.parametrize(
        ("which", "found"),
        [
            (RunFilter(statuses=("ok", "failed")), ["r3", "r1"]),
            (RunFilter(statuses=("running",)), ["r4", "r2"]),
            (RunFilter(pipeline="other"), ["r2"]),
            (RunFilter(tags={"team": "a"}), ["r3", "r1"]),
            (RunFilter(tags={"team": "a", "day": "1"}), ["r3"]),
            (RunFilter(fingerprint="f2"), ["r3"]),
            (RunFilter(started_before=3.0), ["r2", "r1"]),
            (RunFilter(started_from=3.0), ["r4", "r3"]),
            (RunFilter(started_from=2.0, started_before=3.0), ["r2"]),
            (RunFilter(parent="r1"), ["r2"]),
            (RunFilter(parent="r1", pipeline="plan"), []),
        ],
    )
    def test_runs_are_found_by_what_they_are(self, store: Store, which: RunFilter, found: list[str]) -> None:
        kept(
            store,
            started("r1", started=1.0, tags={"team": "a"}),
            started("r2", started=2.0, pipeline="other", parent="r1", root="r1", tags={"team": "b"}),
            started("r3", started=3.0, fingerprint="f2", tags={"team": "a", "day": "1"}),
            started("r4", started=4.0),
            ended("r1"),
            ended("r3", status="failed"),
        )
        assert [row.run_id for row in store.runs(which)] == found

    def test_ids_are_found_by_their_beginning(self, store: Store) -> None:
        ids = ["ab1", "ab2", "b%1", "b_1", "é1"]
        kept(store, *(started(run_id, started=float(n)) for n, run_id in enumerate(ids)))
        assert store.run_ids("ab") == ["ab2", "ab1"]
        assert store.run_ids("ab", limit=1) == ["ab2"]
        assert store.run_ids("b%") == ["b%1"]
        assert store.run_ids("é") == ["é1"]
        assert store.run_ids("x") == []
        assert store.run_ids("") == ids[::-1]

    # Calls.

    @pytest.mark.parametrize(
        "row",
        [
            call(),
            call(key=key(item=None, step="revise-1", digest="no hex"), reused="r0"),
            call(reply=reply("long " * 5000, cost=None, first_token=None, finish_reason="length", by="b/two")),
            call(reply=reply("é\x00\n", asked="another/one", usage=Usage(source="estimated"))),
            call(request=request("long " * 5000, temperature=0.5, stop=("x",), json_schema={"a": ["é"] * 200})),
            call(request=request(extra={"deep": {"er": [1, None, 2.5]}}, key=key(), seed=3)),
            call(request=request(key=key(7))),
            call(request=Request(messages=(), max_tokens=1)),
            call(
                request=Request(
                    messages=(
                        Message(role="system", content="Be brief."),
                        Message(role="user", content="Look: and say.", files=((6, PICTURE), (6, PICTURE))),
                    ),
                    max_tokens=9,
                )
            ),
            call(state="failed", reply=None, failure=BOOM),
            call(request=None, reply=reply(""), text_digest="ab" * 32),
        ],
    )
    def test_a_call_is_kept_with_all_its_texts(self, store: Store, row: Call) -> None:
        kept(store, started(), row)
        assert store.call("r1", 1) == row
        assert list(store.calls("r1", texts=True)) == [row]
        bare = None if row.reply is None else row.reply.model_copy(update={"text": ""})
        assert list(store.calls("r1")) == [replace(row, request=None, reply=bare)]

    @pytest.mark.parametrize(
        "waited",
        [
            None,
            Waited(slot=1.5),
            Waited(library=0.25, budget=3.0, slot=0.000001, pause=12.0, failed=600.5),
            Waited(batch=86_400.25),
        ],
    )
    def test_a_call_is_kept_with_its_waits(self, store: Store, waited: Waited | None) -> None:
        failure = Failure(reason="ModelError", message="gone")
        rows = (call(waited=waited), call(2, state="failed", reply=None, failure=failure, waited=waited))
        kept(store, started(), session(), *rows)
        assert [one.waited for one in store.calls("r1")] == [waited, waited]
        assert store.call("r1", 2) == rows[1]

    def test_the_times_of_calls_leave_out_those_of_other_runs(self, store: Store) -> None:
        failed = call(2, state="failed", reply=None, failure=Failure(reason="ModelError", message="gone"))
        by_fallback = call(3, reply=reply(by="b/two"), waited=Waited(slot=1.5))
        kept(
            store,
            started(),
            session(),
            call(),
            failed,
            by_fallback,
            call(4, reused="cache"),
            call(5, reused="r0"),
        )
        place = ("work", "bulk")
        assert [(one.stage, one.role, one.model, one.asked) for one in store.timings("r1")] == [
            (*place, "a/one", None),
            (*place, "a/one", None),
            (*place, "b/two", "a/one"),
            (*place, "a/one", None),
        ]
        assert [one.item for one in store.timings("r1")] == [1, 2, 3, 4]
        assert [(one.started, one.ended, one.latency) for one in store.timings("r1")][:2] == [
            (101.0, 102.0, 0.25),
            (101.0, 102.0, 0.0),
        ]
        assert [one.waited for one in store.timings("r1")] == [None, None, Waited(slot=1.5), None]
        assert [one.reused for one in store.timings("r1")] == [False, False, False, True]
        assert [(one.input, one.cached_read, one.cache_write) for one in store.timings("r1")][:2] == [
            (10, 4, 2),
            (0, 0, 0),
        ]

    def test_calls_that_differ_in_one_parameter_are_kept_each_with_its_own(self, store: Store) -> None:
        asked: list[dict[str, Any]] = [
            {},
            {"temperature": 0.0},
            {"temperature": 1.0},
            {"top_p": 1.0},
            {"seed": 1},
            {"timeout": 1.0},
            {"stop": ("x",)},
            {"stop": ("y",)},
            {"reasoning_effort": "low"},
            {"thinking_budget": 1},
            {"json_mode": "object"},
            {"sample": 1},
            {"extra": {"a": 1}},
            {"extra": {"a": True}},
            {"json_schema": {"const": 1}},
            {"json_schema": {"const": True}},
            {"max_tokens": 1},
        ]
        rows = [call(number, request=request(**more)) for number, more in enumerate(asked, start=1)]
        kept(store, started(), *rows)
        found = list(store.calls("r1", texts=True))
        assert [repr(row) for row in found] == [repr(row) for row in rows]

    def test_the_index_is_in_the_order_of_numbers(self, store: Store) -> None:
        failed = call(2, state="failed", reply=None, failure=BOOM)
        kept(store, started(), call(3), failed, call(1))
        assert list(store.index("r1")) == [
            CallIndex(1, key(1), "finished"),
            CallIndex(2, key(2), "failed"),
            CallIndex(3, key(3), "finished"),
        ]
        assert [row.number for row in store.calls("r1")] == [1, 2, 3]
        assert [row.number for row in store.calls("r1", after=1, texts=True)] == [2, 3]
        assert [row.number for row in store.calls("r1", after=1, stage=key(1).stage)] == [2, 3]
        assert list(store.calls("r1", stage="another")) == list(store.calls("r1", after=3)) == []
        assert store.last_numbers("r1") == (3, 0)

    @pytest.mark.parametrize("at_once", [True, False])
    def test_the_first_finished_call_under_a_key_wins(self, store: Store, at_once: bool) -> None:
        first, second = call(1), call(2, key=key(1), reply=reply("too late"))
        for rows in [(started(), first, second)] if at_once else [(started(), first), (second,)]:
            kept(store, *rows)
        assert list(store.calls("r1", texts=True)) == [first]
        assert store.call("r1", 2) is None

    @pytest.mark.parametrize("many", [7, 8, 9, 31, 32, 33, 75, 200])
    def test_any_number_of_rows_at_once_means_the_same(self, store: Store, many: int) -> None:
        """Rows with and without each value, two of each key, and some of a run that is not there."""
        rows: list[Row] = [started(), session()]
        for number in range(1, many + 1):
            first = number if number % 2 else None
            text = reply(f"answer {number} ".ljust(number % 3 * 500, "x"), served="one" if number % 3 else "two")
            made = call(
                number,
                key=key(number, item=first),
                request=request(f"Do {number}. " * (number % 4 * 60 + 1)) if number % 5 else None,
                reply=text,
                reused=None if number % 7 else "r0",
            )
            again = replace(made, number=number + 1000, reply=reply("too late"))
            rows += [attempt(number, item=first), made, again, attempt(number, "r9"), call(number, "r9"), end(number)]
            rows += [Decision("r1", "work", number % 3, "said", number), Noticed("r1", number, f'{{"n":{number}}}')]
        kept(store, *rows)
        expected = [row for row in rows if isinstance(row, Call) and row.run_id == "r1" and row.number < 1000]
        assert list(store.calls("r1", texts=True)) == expected
        said = [row for row in rows if isinstance(row, Decision)]
        assert store.decisions("r1") == said[:3]
        tried = [row for row in rows if isinstance(row, Attempt) and row.run_id == "r1"]
        assert list(store.attempts("r1")) == [(row, end(row.number)) for row in tried]
        assert store.events("r1") == [{"n": number} for number in range(1, many + 1)]
        assert list(store.calls("r9")) == []

    def test_failed_calls_of_one_key_are_all_kept(self, store: Store) -> None:
        failed = [call(n, key=key(1), state="failed", reply=None, failure=BOOM) for n in (1, 2)]
        kept(store, started(), *failed, call(3, key=key(1)))
        assert [index.state for index in store.index("r1")] == ["failed", "failed", "finished"]

    def test_the_same_key_in_another_place_is_another_call(self, store: Store) -> None:
        keys = [key(1), key(1, item=None), key(1, step="verdict"), key(1, stage="review"), key(1, digest="00")]
        kept(store, started(), started("r2"), *(call(n, key=one) for n, one in enumerate(keys, 1)), call(1, "r2"))
        assert [index.key for index in store.index("r1")] == keys
        assert [index.key for index in store.index("r2")] == keys[:1]

    @pytest.mark.parametrize("at_once", [True, False])
    def test_a_call_that_was_set_aside_may_be_made_again(self, store: Store, at_once: bool) -> None:
        first, aside, again = call(1), SetAside("r1", (key(1), key(9))), call(3, key=key(1), reply=reply("better"))
        for rows in (
            [(started(), first, call(2), aside, again)]
            if at_once
            else [
                (started(), first, call(2)),
                (aside,),
                (again,),
            ]
        ):
            kept(store, *rows)
        assert list(store.calls("r1", texts=True)) == [replace(first, state="set aside"), call(2), again]

    @pytest.mark.anyio
    async def test_an_answer_is_there_for_another_run(self, store: Store) -> None:
        row = call(request=request("long " * 5000), reply=reply("long " * 5000))
        store.put(started(), row)
        await store.written()
        answer = await store.answer("r1", 1)
        assert answer is not None
        assert replace(answer, request=row.request) == row
        assert await store.answer("r1", 2) is None

    # Money.

    def test_the_ledger_is_as_it_was_written(self, store: Store) -> None:
        unknown = attempt(3, usd=None, session=2)
        kept(store, started(), attempt(2), attempt(1), unknown, end(1), end(2, state="charged", usd=None))
        assert list(store.attempts("r1")) == [
            (attempt(1), end(1)),
            (attempt(2), end(2, state="charged", usd=None)),
            (unknown, None),
        ]

    def test_an_attempt_ends_once(self, store: Store) -> None:
        kept(store, started(), attempt(), end(), end(state="charged"), end(9))
        kept(store, end(state="refunded"), attempt(usd=Decimal(7)))
        assert list(store.attempts("r1")) == [(attempt(), end())]
        assert list(store.attempts("r1", states=["open", "lost"])) == []
        assert list(store.attempts("r1", states=[end().state])) == [(attempt(), end())]

    def test_spending_counts_what_is_open_with_its_worst_case(self, store: Store) -> None:
        kept(
            store,
            started(),
            session(),
            *(attempt(n) for n in range(1, 5)),
            attempt(5, stage="plan", usd=None),
            end(1),
            end(2, state="charged", usd=None, tokens=7),
            end(3, state="refunded", usd=Decimal(0), tokens=0),
        )
        assert store.spending("r1") == {
            "work": Spending(Decimal("0.0101"), 15 + 7 + 900, 3, 1),
            "plan": Spending(Decimal(0), 900, 1, 1),
        }
        row = store.run("r1")
        assert row is not None
        assert (row.usd, row.unknown_calls, row.calls) == (Decimal("0.0101"), 2, 4)

    def test_what_was_open_is_lost_and_counts_in_full(self, store: Store) -> None:
        kept(store, started(), started("r2"), attempt(1), attempt(2), end(1), attempt(3, usd=None), attempt(1, "r2"))
        before = store.spending("r1")
        assert store.lose_open("r1") == 2
        assert store.lose_open("r1") == 0
        assert store.spending("r1") == before
        states: list[AttemptState | None] = [
            None if closed is None else closed.state for _, closed in store.attempts("r1")
        ]
        assert states == ["settled", "lost", "lost"]
        assert [closed for _, closed in store.attempts("r2")] == [None]

    def test_money_is_exact(self, store: Store) -> None:
        tiny, huge = Decimal("0.000000000000000000000000000001"), Decimal("123456789012345678901234567890.1")
        costs = [tiny, huge, Decimal("0.1"), Decimal("0.2"), Decimal("1E+3")]
        kept(store, started())
        for n, cost in enumerate(costs, 1):
            kept(store, attempt(n, usd=cost), call(n, reply=reply(cost=cost)))
        exact = Decimal("123456789012345678901234568890.400000000000000000000000000001")
        assert store.spending("r1")["work"].usd == exact
        (line,) = store.lines("r1")
        assert line.usd == exact
        kept(store, ended(usd=huge))
        row = store.run("r1")
        assert row is not None
        assert row.usd == huge

    def test_lines_count_the_calls_that_came_in_batches(self, store: Store) -> None:
        in_batch = [reply(batch_saved=Decimal(saved)) for saved in ("0.0001", "0", "0.25")]
        calls = (call(n, reply=one) for n, one in enumerate((*in_batch, reply()), start=1))
        kept(store, started(), *calls, call(5, reply=in_batch[2], reused="cache"))
        assert [one.reply and one.reply.batch_saved for one in store.calls("r1")][:4] == [
            Decimal("0.0001"),
            Decimal(0),
            Decimal("0.25"),
            None,
        ]
        here, reused = store.lines("r1")
        assert (here.calls, here.batched, here.batch_saved) == (4, 3, Decimal("0.2501"))
        assert (reused.calls, reused.batched) == (1, 1)

    def test_an_attempt_lost_with_its_process_may_be_settled_later(self, store: Store) -> None:
        kept(store, started(), session(), attempt(1), attempt(2))
        assert store.lose_open("r1") == 2
        kept(store, AttemptEnd("r1", 1, 1, "settled", 200.0, Decimal("0.001"), 7))
        ends = [(end.state, end.usd) for _, end in store.attempts("r1") if end is not None]
        assert ends == [("settled", Decimal("0.001")), ("lost", attempt(2).usd)]

    def test_lines_add_up_calls_by_stage_role_and_model(self, store: Store) -> None:
        guessed = Usage(input=1, output=1, source="estimated")
        kept(
            store,
            started(),
            call(1),
            call(2, reply=reply(cost=None)),
            call(3, key=key(3, stage="plan", item=None), role="frontier"),
            call(4, reply=reply(by="b/two")),
            call(5, reply=reply(usage=guessed)),
            call(6, reused="r0"),
            call(7, reused="cache"),
            call(8, state="failed", reply=None, failure=BOOM),
            call(9, reply=reply(served="one-2027")),
            SetAside("r1", (key(1),)),
        )
        cost = Decimal("0.0001")
        assert store.lines("r1") == [
            Line("work", "bulk", "a/one", None, "one-2026", "measured", False, 2, 20, 8, 4, 10, 2, cost, 1),
            Line("plan", "frontier", "a/one", None, "one-2026", "measured", False, 1, 10, 4, 2, 5, 1, cost, 0),
            Line("work", "bulk", "b/two", "a/one", "one-2026", "measured", False, 1, 10, 4, 2, 5, 1, cost, 0),
            Line("work", "bulk", "a/one", None, "one-2026", "estimated", False, 1, 1, 0, 0, 1, 0, cost, 0),
            Line("work", "bulk", "a/one", None, "one-2026", "measured", True, 2, 20, 8, 4, 10, 2, 2 * cost, 0),
            Line("work", "bulk", "a/one", None, "one-2027", "measured", False, 1, 10, 4, 2, 5, 1, cost, 0),
        ]

    # Decisions and events.

    def test_a_thing_is_decided_once(self, store: Store) -> None:
        values: list[Any] = [{"kept": [1, 2]}, "text", None, 2.5, ["é" * 3000]]
        places: list[tuple[str, int | None]] = [("work", 1), ("work", None), ("plan", 1), ("work", 2), ("a", 1)]
        decided = [Decision("r1", *place, "drop", value) for place, value in zip(places, values, strict=True)]
        kept(store, started(), *decided, Decision("r1", "work", 1, "drop", "other"))
        kept(store, Decision("r1", "work", None, "drop", "other"))
        assert store.decisions("r1") == decided

    def test_events_come_in_their_order(self, store: Store) -> None:
        bodies: Mapping[int, Mapping[str, Any]] = {3: {"c": "é" * 3000}, 1: {"a": 1}, 2: {"b": [None, 2.5]}}
        kept(store, started(), *(Noticed("r1", number, as_json(body)) for number, body in bodies.items()))
        kept(store, Noticed("r1", 1, '{"other":1}'))
        assert store.events("r1") == [bodies[1], bodies[2], bodies[3]]
        assert [store.events("r1", after=2), store.events("r1", after=3)] == [[bodies[3]], []]
        assert store.last_numbers("r1") == (0, 3)

    # The cache.

    @pytest.mark.anyio
    async def test_the_newest_reply_is_cached(self, store: Store) -> None:
        assert await store.cached("k") is None
        long = reply("é" * 5000, cost=None, by="b/two")
        store.put(Cached("k", reply("old"), 1.0), Cached("k", long, 2.0), Cached("k", reply("older"), 1.5))
        await store.written()
        assert await store.cached("k") == long
        assert await store.cached("other") is None
        assert store.sizes()["cached"] == 1
        assert store.clear_cache() == 1
        assert await store.cached("k") is None

    @pytest.mark.anyio
    async def test_what_was_not_used_for_the_longest_leaves_the_cache(self, small: Store) -> None:
        now = time.time()
        for number in range(8):
            small.put(Cached(f"k{number}", reply(random_text(1000)), now - 100 + number))
        await small.written()
        kept_first = [await small.cached(f"k{number}") is not None for number in range(8)]
        assert kept_first == [True] * 8
        for number in (0, 1):
            await asyncio.sleep(0.002)  # the clock has to go on
            assert await small.cached(f"k{number}") is not None
        for number in range(8, 12):
            small.put(Cached(f"k{number}", reply(random_text(1000)), time.time()))
        await small.written()
        left = [number for number in range(12) if await small.cached(f"k{number}") is not None]
        assert {0, 1, 8, 9, 10, 11} <= set(left)
        assert len(left) < 12
        small.put(Cached("large", reply(random_text(2 * SMALL)), time.time()))
        await small.written()
        assert await small.cached("large") is None
        assert small.sizes()["cached"] == 0

    # Writing.

    @pytest.mark.anyio
    async def test_what_is_written_can_be_read(self, store: Store) -> None:
        await store.written()
        store.put(started())
        for number in range(1, 20):
            store.put(*work(number))
            await store.written()
            assert store.last_numbers("r1")[0] == number

    @pytest.mark.anyio
    async def test_many_write_at_once(self, store: Store) -> None:
        store.put(started())

        async def one(number: int) -> None:
            store.put(attempt(number))
            await store.written()
            store.put(end(number), call(number))
            await store.written()
            assert store.call("r1", number) == call(number)

        await asyncio.gather(*(one(number) for number in range(1, 201)))
        assert store.last_numbers("r1") == (200, 0)
        assert store.spending("r1") == {"work": Spending(200 * Decimal("0.0001"), 200 * 15, 200, 0)}

    def test_many_threads_and_loops_write_at_once(self, store: Store) -> None:
        kept(store, *(started(f"r{n}") for n in range(6)))

        async def several(run_id: str) -> None:
            for number in range(1, 30):
                store.put(*work(number, run_id))
                await store.written()

        def some(n: int) -> None:
            if n % 2:
                asyncio.run(several(f"r{n}"))
            else:
                for number in range(1, 30):
                    kept(store, *work(number, f"r{n}"))

        threads = [threading.Thread(target=some, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [store.last_numbers(f"r{n}") for n in range(6)] == [(29, 0)] * 6

    @pytest.mark.anyio
    async def test_a_call_is_made_when_the_rows_before_it_are_on_disk(self, store: Store) -> None:
        store.put(started())
        await store.written()
        made: list[tuple[int, StoreError | None, int]] = []
        for number in range(1, 6):
            store.put(*work(number))
            store.when_written(lambda failure, number=number: made.append((number, failure, last_call())))

        def last_call() -> int:
            return store.last_numbers("r1")[0]

        await store.written()
        assert [number for number, _, _ in made] == [1, 2, 3, 4, 5]
        assert all(failure is None and there >= number for number, failure, there in made)

    @pytest.mark.anyio
    @pytest.mark.parametrize("rows", [(), work()])
    async def test_a_call_is_made_though_nothing_else_waits(self, store: Store, rows: tuple[Row, ...]) -> None:
        store.put(started())
        await store.written()
        made = asyncio.get_running_loop().create_future()
        store.put(*rows)
        store.when_written(made.set_result)
        assert await made is None
        assert store.last_numbers("r1")[0] == len(rows[:1])

    @pytest.mark.anyio
    async def test_a_closed_store_says_so_to_calls(self, store: Store) -> None:
        store.close()
        made = asyncio.get_running_loop().create_future()
        store.when_written(made.set_result)
        assert "closed" in str(await made)

    @pytest.mark.anyio
    async def test_waiting_can_be_given_up(self, store: Store) -> None:
        store.put(started())
        waiting = [asyncio.create_task(store.written()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert [done[0], done[2]] == [None, None]
        assert store.run("r1") is not None

    @pytest.mark.anyio
    async def test_a_closed_store_says_so(self, store: Store) -> None:
        store.put(started())
        store.close()
        store.close()
        store.put(started("r2"))
        with pytest.raises(StoreError, match="closed"):
            await store.written()
        with pytest.raises(StoreError, match="closed"):
            store.flush()
        with pytest.raises(StoreError, match="closed"):
            store.run("r1")

    # Locks.

    def test_one_has_the_right_to_a_run(self, store: Store) -> None:
        assert not store.is_locked("r1")
        lock = store.lock("r1")
        other = store.lock("r2")
        assert store.is_locked("r1")
        with pytest.raises(RunBusyError, match="'r1'"):
            store.lock("r1")
        lock.release()
        lock.release()
        assert (store.is_locked("r1"), store.is_locked("r2")) == (False, True)
        again = store.lock("r1")
        lock.release()
        assert store.is_locked("r1")
        again.release()
        other.release()

    @pytest.mark.parametrize("held", [["b"], ["a"], ["c"], ["b", "c"]])
    def test_several_locks_are_taken_all_or_none(self, store: Store, held: list[str]) -> None:
        other = store.claim_all(held)
        assert other is not None
        assert store.claim_all(["a", "b", "c"]) is None
        assert [name for name in "abc" if store.is_locked(name)] == held
        other.release()
        other.release()
        lock = store.claim_all(["a", "b", "c"])
        assert lock is not None
        assert store.claim("b") is None
        lock.release()
        assert not any(store.is_locked(name) for name in "abc")

    def test_of_many_threads_one_gets_the_lock(self, store: Store) -> None:
        gate = threading.Barrier(8)
        got: list[bool] = []

        def take() -> None:
            gate.wait()
            try:
                store.lock("r1")
                got.append(True)
            except RunBusyError:
                got.append(False)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [False] * 7 + [True]

    @pytest.mark.parametrize("run_id", ["../up", "a/b", "", ".", "ü" * 300, "-x"])
    def test_any_id_can_be_locked(self, store: Store, run_id: str) -> None:
        assert not store.is_locked(run_id)
        lock = store.lock(run_id)
        assert store.is_locked(run_id)
        lock.release()
        assert not store.is_locked(run_id)

    # Housekeeping.

    def test_a_run_is_removed_with_all_that_is_kept_of_it(self, store: Store) -> None:
        rows = (session(), *work(), Decision("r1", "work", None, "drop", 1), Noticed("r1", 1, "{}"))
        kept(store, started(), *rows, started("r2"), *work(1, "r2"))
        before = dict(store.sizes())
        assert (before["runs"], before["calls"], before["attempts"], before["cached"]) == (2, 2, 2, 0)
        assert store.remove(["r1", "r3"]) == 1
        self.test_run_is_gone(store)
        assert store.call("r2", 1) == call(1, "r2")
        after = store.sizes()
        assert (after["runs"], after["calls"], after["attempts"]) == (1, 1, 1)
        kept(store, *work(2))
        assert list(store.calls("r1")) == []
        kept(store, started())
        assert list(store.calls("r1")) == []
        kept(store, call())
        assert store.call("r1", 1) == call()

    def test_run_is_gone(self, store: Store) -> None:
        assert [store.run("r1"), store.record("r1"), store.call("r1", 1)] == [None] * 3
        assert [*store.index("r1"), *store.attempts("r1"), *store.events("r1"), *store.decisions("r1")] == []

    def test_sizes_are_numbers_of_rows(self, store: Store) -> None:
        kept(store, started(), attempt(1), attempt(2), call(1), Cached("k", reply(), 1.0))
        sizes = store.sizes()
        assert {name: sizes[name] for name in ("runs", "calls", "attempts", "cached")} == {
            "runs": 1,
            "calls": 1,
            "attempts": 2,
            "cached": 1,
        }
        assert sizes["bytes"] >= 0

    def test_every_status_is_kept(self, store: Store) -> None:
        statuses: list[RunStatus] = ["ok", "partial", "failed", "interrupted"]
        for status in statuses:
            kept(store, started(status), session(status), ended(status, status=status))
        assert {row.status for row in store.runs(RunFilter())} == set(statuses)
