"""What is shown of a run's events: plain lines, the live view, the receipt."""

import io
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from fusion.cli.views.answer import StreamedAnswer
from fusion.cli.views.lines import folded_lines, folded_texts, reason
from fusion.cli.views.live.follow import Follower
from fusion.cli.views.live.plain import Plain
from fusion.cli.views.live.terminal import LiveView
from fusion.cli.views.receipt import receipt_lines
from fusion.core.events import (
    AttemptFailed,
    CallCancelled,
    CallFinished,
    CallStarted,
    Delta,
    EventBase,
    FallbackTaken,
    ItemFinished,
    Noted,
    OutageChanged,
    Paused,
    Restarted,
    RunFinished,
    RunStarted,
    StageFinished,
    StageGrew,
    StageStarted,
)
from fusion.core.result import Cost, FailedPart, Receipt, ReceiptLine, Result, Spent, StageResult
from fusion.core.types import Failure, Usage

BROKEN = Failure(reason="BadResponseError", message="empty\nanswer \x1b[31mred")
RUN = [
    RunStarted(
        run_id="r",
        pipeline="p",
        profile="local",
        roles={"bulk": "x/small"},
        stages={"work": "map", "answer": "merge"},
    ),
    StageStarted(stage="work", kind="map"),
    StageGrew(stage="work", known=2, final=True),
    CallStarted(stage="work", item=0, step="work", role="bulk", model="x/small", digest="d"),
    AttemptFailed(stage="work", item=0, model="x/small", attempt=1, failure=BROKEN, wait=2.0),
    CallFinished(
        stage="work",
        item=0,
        step="work",
        role="bulk",
        asked="x/small",
        served="x/small-2",
        digest="d",
        usage=Usage(input=1200, output=34),
        cost=Decimal("0.0123"),
        latency=1.25,
        first_token=0.5,
        finish_reason="stop",
    ),
    ItemFinished(stage="work", item=0),
    ItemFinished(stage="work", item=1, failure=BROKEN),
    Noted(stage="work", message="an edge was dropped"),
    StageFinished(stage="work", kind="map", status="ok", seconds=75.0),
    StageStarted(stage="answer", kind="merge"),
    StageFinished(stage="answer", kind="merge", status="failed", seconds=0.5, failure=BROKEN),
    RunFinished(status="failed", seconds=76.0, failure=BROKEN),
]


PLAN = RunStarted(pipeline="p", profile="local", roles={}, stages={"plan": "plan", "answer": "merge"})


PLANNING = StageStarted(stage="plan", kind="plan")


def titled(number: int) -> EventBase:
    return StageGrew(stage="plan", known=number, title=f"part {number}")


def shown(view: Any, events: list[EventBase]) -> None:
    for event in events:
        view.show(event)
        view.tick()
    view.close()


def test_plain_lines_tell_beginning_end_and_all_that_goes_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    shown(Plain(verbose=False), RUN)
    assert capsys.readouterr() == (
        "",
        "p: run r; profile local; bulk=x/small\n"
        "work: started (map)\n"
        "work 1: attempt 1 failed, again in 2.0 s: BadResponseError: empty answer \N{REPLACEMENT CHARACTER}[31mred\n"
        "work 2: failed: BadResponseError: empty answer \N{REPLACEMENT CHARACTER}[31mred\n"
        "work: an edge was dropped\n"
        "work: ok, 2 items, 1 failed, 1 min 15 s\n"
        "answer: started (merge)\n"
        "answer: failed after 0.5 s\n",
    )


DOWN = Failure(reason="ModelConnectionError", message="'x/small' is unreachable; check the network " + "or wait " * 9)
FAULTS: dict[str, Callable[[int], EventBase]] = {
    "failed items": lambda n: ItemFinished(stage="work", item=n, failure=DOWN),
    "attempts with waits of their own": lambda n: AttemptFailed(
        stage="work", item=n, model="x/small", attempt=n % 3 + 1, failure=DOWN, wait=n / 10
    ),
    "fallbacks": lambda n: FallbackTaken(
        stage="work", item=n, asked="x/small", failed="x/small", model="y/large", failure=DOWN
    ),
    "notes of a stage": lambda n: Noted(stage="work", item=n, message="an edge was dropped"),
    "notes of the run": lambda n: Noted(message="the provider is slow"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_two_hundred_equal_faults_are_a_line_and_a_count(
    fault: Callable[[int], EventBase], capsys: pytest.CaptureFixture[str]
) -> None:
    end = [
        StageFinished(stage="work", kind="map", status="ok", seconds=1.0),
        RunFinished(run_id="r", status="partial", seconds=1.0),
    ]
    shown(Plain(verbose=False), [*RUN[:2], *map(fault, range(200)), *end])
    lines = [line for line in capsys.readouterr().err.splitlines()[2:] if line != "work: ok, 1.0 s"]
    lines = [line for line in lines if not line.startswith("work: ok, 200 items")]
    assert len(lines) == 2
    assert "199 more times: " in lines[1] or lines[1].endswith(", 200 attempts")
    assert len(lines[1]) <= 130
    shown(Plain(verbose=True), [*RUN[:2], *map(fault, range(200)), *end])
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_faults_that_differ_are_counted_apart(capsys: pytest.CaptureFixture[str]) -> None:
    other = Failure(reason="ShapeError", message="no JSON")
    faults = [ItemFinished(stage="work", item=n, failure=other if n % 4 else DOWN) for n in range(8)]
    shown(Plain(verbose=False), [*RUN[:2], *faults, RunFinished(run_id="r", status="failed", seconds=1.0)])
    assert capsys.readouterr().err.splitlines()[2:] == [
        f"work 1: failed: {reason(DOWN)}",
        "work 2: failed: ShapeError: no JSON",
        f"work 5: failed: {reason(DOWN)}",
        "work: 5 more times: failed: ShapeError: no JSON",
    ]


def refused(wait: float, request: str) -> Failure:
    return Failure(reason="RateLimitError", message=f"(429) slow down, request {request}; try again in {wait} s")


def test_figures_and_ids_make_no_other_fault(capsys: pytest.CaptureFixture[str]) -> None:
    faults = [
        AttemptFailed(
            stage="work", item=n, model="x/small", attempt=1, failure=refused(n / 7, f"req_{n:08x}"), wait=n / 7
        )
        for n in range(143)
    ]
    shown(Plain(verbose=False), [*RUN[:2], *faults, RunFinished(run_id="r", status="ok", seconds=1.0)])
    lines = capsys.readouterr().err.splitlines()[2:]
    assert len(lines) == 2
    assert lines[0] == "work 1: attempt 1 failed, again: " + reason(faults[0].failure)
    assert lines[1].startswith("work: x/small: RateLimitError: (429) slow down")
    assert lines[1].endswith(", 143 attempts")
    parts = [FailedPart(stage="work", item=n, failure=refused(n / 7, f"req_{n:08x}")) for n in range(143)]
    assert len(folded_lines(parts)) == 1


def test_the_number_of_attempts_makes_no_other_fault() -> None:
    said = [
        "it is down",
        "it is down (after 2 attempts)",
        "it is down (after 1 attempt; the next could start in 3.0 s)",
    ]
    parts = [FailedPart(stage="work", item=n, failure=Failure(reason="E", message=one)) for n, one in enumerate(said)]
    assert folded_lines(parts) == ["work 1, 2, 3: E: it is down"]


def test_notes_that_repeat_have_a_count() -> None:
    assert folded_texts(["no price", "cut", "no price"]) == ["no price (2 times)", "cut"]


def test_faults_of_two_models_are_counted_apart(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["openai/gpt-5.6", "openai/gpt-5.5"]
    faults = [
        ItemFinished(stage="work", item=n, failure=Failure(reason="E", message=f"{names[n % 2]!r} is gone"))
        for n in range(8)
    ]
    shown(Plain(verbose=False), [*RUN[:2], *faults, RunFinished(run_id="r", status="failed", seconds=1.0)])
    assert len(capsys.readouterr().err.splitlines()) == 2 + 4


def test_calls_that_a_failure_cancels_are_a_line_and_a_count_too(capsys: pytest.CaptureFixture[str]) -> None:
    cancelled = [CallCancelled(stage="work", item=n, step="work", role="bulk", model="x/small") for n in range(199)]
    shown(Plain(verbose=True), [*RUN[:2], *cancelled, RunFinished(run_id="r", status="failed", seconds=1.0)])
    assert capsys.readouterr().err.splitlines()[2:] == [
        "work 1: work by x/small cancelled",
        "work: 198 more times: call to x/small cancelled",
    ]


@pytest.mark.parametrize(
    ("rate", "wait", "line"),
    [
        (9.8, 0.4, "work: x/small: rate limit, 9.8 requests a second, next call in 0.4 s"),
        (0.25, 4.0, "work: x/small: rate limit, 0.25 requests a second, next call in 4.0 s"),
        (120.0, 0.02, "work: x/small: rate limit, 120 requests a second, next call in 0.0 s"),
        (None, 60.0, "work: x/small: rate limit, next call in 1 min 00 s"),
        (None, 12.4, "work: x/small: rate limit, next call in 12 s"),
    ],
)
def test_a_rate_limit_is_one_line(
    rate: float | None, wait: float, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paused = Paused(run_id="r", stage="work", model="x/small", rate=rate, wait=wait)
    shown(Plain(verbose=False), [*RUN[:2], paused, paused])
    assert line in capsys.readouterr().err.splitlines()


def change(state: Any, seconds: float) -> EventBase:
    failure = None if state == "closed" else DOWN
    return OutageChanged(run_id="r", model="x/small", state=state, seconds=seconds, failure=failure)


OUTAGE = [
    change("open", 1.0),
    change("probing", 1.0),
    change("open", 2.0),
    change("probing", 3.1),
    change("open", 4.0),
    change("probing", 7.2),
    change("closed", 7.3),
]


def test_an_outage_is_a_line_when_it_begins_is_probed_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    shown(Plain(verbose=False), [*RUN[:2], *OUTAGE, *OUTAGE[:1]])
    lines = capsys.readouterr().err.splitlines()[2:]
    assert [line.partition(": ")[0] for line in lines] == [
        "x/small is down, and asked again in 1.0 s",
        "x/small is asked again after 1.0 s",
        "x/small is back after 7.3 s",
        "x/small is down, and asked again in 1.0 s",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_counts_the_seconds_of_an_outage(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    now = 100.0
    view = LiveView(verbose=False, clock=lambda: now, console=console)
    for event in [*RUN[:2], *OUTAGE[:3]]:
        view.show(event)
    now = 101.5
    with console.capture() as captured:
        console.print(view.frame())
    assert "  x/small is down for 1.5 s, asked again in 0.5 s" in captured.get().splitlines()
    view.show(OUTAGE[-1])
    with console.capture() as captured:
        console.print(view.frame())
    assert "x/small" not in captured.get()


def test_failed_parts_with_one_reason_are_one_line() -> None:
    parts = [FailedPart(stage="work", item=n, failure=DOWN) for n in range(200)]
    parts += [FailedPart(stage="check", failure=BROKEN), FailedPart(stage="work", item=7, failure=BROKEN)]
    assert [line.partition(":")[0] for line in folded_lines(parts)] == [
        "work 1, 2, 3 and 197 more",
        "check",
        "work 8",
    ]


def test_verbose_adds_each_call(capsys: pytest.CaptureFixture[str]) -> None:
    shown(Plain(verbose=True), RUN)
    line = "work 1: work by x/small (served by x/small-2): 1,200 in, 34 out, $0.0123, 1.2 s\n"
    assert line in capsys.readouterr().err


def test_a_stage_that_failed_and_was_skipped_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    failure = Failure(reason="StageError", message="too few")
    shown(
        Plain(verbose=False), [StageFinished(stage="a", kind="map", status="skipped", seconds=1.0, failure=failure)]
    )
    assert capsys.readouterr().err == "a: skipped after 1.0 s: StageError: too few\n"


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


Screen = Callable[[], io.BytesIO]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Makes one terminal both standard output and standard error, and gives what is written to it."""

    def make() -> io.BytesIO:
        raw = io.BytesIO()
        terminal = _Terminal(raw, encoding="utf-8", write_through=True)
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        kept.append(terminal)
        return raw

    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    kept: list[_Terminal] = []
    return make


def test_the_live_view_folds_equal_faults_too(screen: Screen) -> None:
    raw = screen()
    shown(LiveView(verbose=False), [*RUN[:2], *map(FAULTS["failed items"], range(200)), RUN[-1]])
    assert raw.getvalue().count(b"ModelConnectionError") <= 2


def test_the_live_view_shows_stages_items_tokens_and_cost(screen: Screen) -> None:
    raw = screen()
    shown(LiveView(verbose=False), RUN[:8])
    text = raw.getvalue().decode()
    assert "p: run r; profile local; bulk=x/small" in text
    for part in ("▸ work", "· answer", "0 of 2", "1 in flight", "2 of 2, 1 failed", "1,234 tokens", "$0.0123"):
        assert part in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert "\x1b[31mred" not in text  # a model's text does not steer the terminal


def test_the_titles_of_a_plan_are_below_it_as_they_come(screen: Screen) -> None:
    raw = screen()
    shown(LiveView(verbose=False), [PLAN, PLANNING, *(titled(number) for number in (1, 2))])
    *_, frame = raw.getvalue().decode().split("▸ plan")
    assert frame.index("part 1") < frame.index("part 2") < frame.index("· answer")


def test_of_more_titles_than_there_is_room_for_the_newest_are_shown(screen: Screen) -> None:
    raw = screen()  # of 30 lines
    shown(LiveView(verbose=False), [PLAN, PLANNING, *(titled(number) for number in range(1, 51))])
    *_, frame = raw.getvalue().decode().split("▸ plan")
    assert "part 50" in frame
    assert "part 40" in frame
    assert "part 20" not in frame


def test_plain_lines_name_the_first_twenty_titles(capsys: pytest.CaptureFixture[str]) -> None:
    shown(Plain(verbose=False), [PLAN, *(titled(number) for number in range(1, 51))])
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == [f"plan {number}: part {number}" for number in range(1, 21)]


def test_calls_that_are_reused_are_shown_as_such_and_cost_nothing(screen: Screen) -> None:
    raw = screen()
    finished = next(event for event in RUN if isinstance(event, CallFinished))
    again = [finished.model_copy(update={"reused": "cache"}) for _ in range(2)]
    begun = [event for event in RUN[:8] if not isinstance(event, CallFinished)]
    shown(LiveView(verbose=False), [*begun, *again])
    text = raw.getvalue().decode()
    assert "2 reused" in text
    assert "$0.0123" not in text
    assert "1,234 tokens" not in text


def test_no_color_leaves_movement_and_takes_colour(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = screen()
    monkeypatch.setenv("NO_COLOR", "1")
    shown(LiveView(verbose=False), RUN[:8])
    text = raw.getvalue().decode()
    assert "▸ work" in text
    assert not any(f"\x1b[{code}m" in text for code in ("31", "32", "36", "1;36", "1;31"))


def test_the_answer_has_the_terminal_for_itself(screen: Screen) -> None:
    raw = screen()
    live = LiveView(verbose=False)
    answer = StreamedAnswer("answer", before=live.hold)
    events = [
        *RUN[:3],
        Delta(stage="answer", step="merge", text="One. "),
        Noted(stage="work", message="said late"),
        Delta(stage="answer", step="merge", text="Two\x1b[2J."),
    ]
    for event in events:
        live.show(event)
        answer.show(event)
        live.tick()
    live.close()
    answer.finish("One. Two\x1b[2J. Three.")
    live.release()
    text = raw.getvalue().decode()
    assert "One. Two\N{REPLACEMENT CHARACTER}[2J." in text
    assert text.index("said late") > text.index(" Three.\n")


def test_an_answer_that_begins_again_is_said_and_printed_again(screen: Screen) -> None:
    raw = screen()
    answer = StreamedAnswer("answer", before=lambda: None)
    for event in (
        Delta(stage="answer", step="merge", text="Wro"),
        Delta(stage="other", step="merge", text="not this"),
        Restarted(stage="answer", step="merge"),
        Delta(stage="answer", step="merge", text="Right"),
    ):
        answer.show(event)
    answer.finish("Right.")
    assert raw.getvalue().decode() == ("Wro\nfusion: discard the text above; the answer starts again:\nRight.\n")


@pytest.mark.parametrize(
    ("pieces", "final", "printed"),
    [
        ([("merge", "ab")], "ab\n", "ab\n"),
        ([], "ab", "ab\n"),
        ([("merge", "ab")], None, "ab\n"),
        ([("merge", "ab")], "cd", "ab\nfusion: discard the text above; the answer starts again:\ncd\n"),
        (
            [("merge", "ab"), ("merge-escalated", "cd")],
            "cd",
            "ab\nfusion: discard the text above; the answer starts again:\ncd\n",
        ),
    ],
)
def test_what_stands_on_the_terminal_is_the_answer(
    screen: Screen, pieces: list[tuple[str, str]], final: str | None, printed: str
) -> None:
    raw = screen()
    answer = StreamedAnswer("answer", before=lambda: None)
    for step, text in pieces:
        answer.show(Delta(stage="answer", step=step, text=text))
    answer.finish(final)
    assert raw.getvalue().decode() == printed


def test_a_viewer_that_fails_stops_no_other_and_nothing_follows_the_end() -> None:
    class Failing:
        refresh = 0.001
        failed = False

        def show(self, event: EventBase) -> None:
            self.failed = True
            raise OSError("full")

        def tick(self) -> None:
            assert not self.failed

        def close(self) -> None:
            raise AssertionError

    class Keeping(Failing):
        seen: list[str]

        def show(self, event: EventBase) -> None:
            self.seen.append(type(event).__name__)

        def tick(self) -> None: ...

        def close(self) -> None:
            self.seen.append("closed")

    keeping = Keeping()
    keeping.seen = []
    follower = Follower([Failing(), keeping])
    for event in (RUN[0], RUN[-1], RUN[1]):
        follower.take(event)
    follower.close()
    follower.close()
    assert keeping.seen == ["RunStarted", "RunFinished", "closed"]
    assert [str(fault) for fault in follower.faults] == ["full"]


def test_the_receipt_keeps_measured_estimated_unknown_and_free_apart() -> None:
    lines = (
        ReceiptLine(
            stage="plan",
            role="frontier",
            model="a/b",
            calls=1,
            measured=Spent(usage=Usage(input=1000, output=50), cost=Cost(usd=Decimal("0.5"))),
            price_source="litellm",
        ),
        ReceiptLine(
            stage="work",
            role="bulk",
            model="c/d",
            calls=3,
            retries=1,
            failed=1,
            measured=Spent(usage=Usage(input=4, output=1), cost=Cost(usd=Decimal("0.05"))),
            estimated=Spent(usage=Usage(input=16, output=4, source="estimated"), cost=Cost(usd=Decimal("0.1"))),
            charged=Spent(usage=Usage(input=900, output=9, source="estimated"), cost=Cost(usd=Decimal("0.1"))),
            price_source="litellm",
        ),
        ReceiptLine(
            stage="work",
            role="odd",
            model="e/f",
            calls=2,
            measured=Spent(usage=Usage(input=2, output=2), cost=Cost(unknown_calls=2)),
        ),
        ReceiptLine(
            stage="answer",
            role="own",
            model="local/small",
            calls=1,
            measured=Spent(usage=Usage(input=7, output=3)),
            price_source="local (free)",
        ),
    )
    text = "\n".join(receipt_lines(result(lines)))
    head, plan, work, odd, own, total = text.splitlines()
    assert head.split() == ["stage", "role", "model", "calls", "retries", "tokens", "in", "out", "cost", "time"]
    assert plan.split() == ["plan", "frontier", "a/b", "1", "0", "1,000", "50", "$0.5000", "2.0", "s"]
    assert work.split() == ["work", "bulk", "c/d", "3", "(1", "failed)", "1", "~20", "~5", "~$0.2500"]
    assert odd.split()[-1] == "unknown"
    assert own.split()[-2:] == ["free", "(local)"]
    assert total == (
        "7 calls, 1 retry; ~1,029 tokens in, ~60 out; $0.5500 measured, $0.1000 estimated, at most $0.1000 for "
        "attempts without a reply, 2 calls of unknown cost; 3.0 s"
    )


def test_on_a_narrow_terminal_the_receipt_has_no_retries_where_there_was_none_and_then_no_roles() -> None:
    line = ReceiptLine(stage="a stage of a long name", role="frontier", model="local/strong", calls=1)
    again = line.model_copy(update={"retries": 2})
    whole = receipt_lines(result((line,)))[0]
    at = len(whole)
    assert receipt_lines(result((line,)), width=at)[0] == whole
    assert head_at(at - 1, line) == without(whole, "retries")
    assert head_at(at - 10, line) == without(whole, "retries", "role")
    assert max(map(len, receipt_lines(result((line,)), width=60))) <= 60
    assert head_at(at - 1, again) == without(whole, "role")


def head_at(width: int, line: ReceiptLine) -> list[str]:
    return receipt_lines(result((line,)), width=width)[0].split()


def without(head: str, *names: str) -> list[str]:
    return [name for name in head.split() if name not in names]


def test_a_run_on_local_models_is_free() -> None:
    line = ReceiptLine(stage="plan", role="own", model="local/small", calls=1, price_source="local (free)")
    assert receipt_lines(result((line,)))[-1] == "1 call; 0 tokens in, 0 out; free (local); 3.0 s"
    assert receipt_lines(result(())) == ["no model was called; 3.0 s"]


def result(lines: tuple[ReceiptLine, ...]) -> Result:
    return Result.model_validate(
        {
            "run_id": "r",
            "pipeline": "p",
            "profile": "local",
            "started": "2026-01-01T00:00:00Z",
            "status": "ok",
            "receipt": Receipt(lines=lines, seconds=3.0),
            "stages": {"plan": StageResult(kind="plan", status="ok", seconds=2.0)},
        }
    )
