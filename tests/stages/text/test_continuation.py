"""An answer that was cut off at its limit is continued: no word lost or doubled at the seams, whoever follows it."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusion import Say, ScriptedModel
from fusion.core.events import CallFinished, Delta, Restarted
from fusion.stages.text.continuation import Stitches, ending, joined
from tests.conftest import pipeline, run, said

ONE = """
inputs: {task: what}
stages:
  answer: {kind: generate%s}
output: answer
"""
WHOLE = " ".join(
    f"Sentence {n} of the report tells what ship number {n * 7} carried into the harbour." for n in range(60)
)
LANGUAGES = {
    "prose": WHOLE,
    "lines": "\n".join(f"- item {n}: {n * n} euros" for n in range(200)),
    "chinese": "".join(chr(0x4E00 + (n * 37) % 3000) for n in range(1500)),
    "code": "\n".join(f"def f{n}(a, b):\n    return a * {n} + b\n" for n in range(90)),
}


class Writer:
    """Writes a text, `size` characters a call, as it is asked to: behind the last words, which it says again."""

    def __init__(self, whole: str, size: int, lead: str = "") -> None:
        self.whole, self.size, self.lead = whole, size, lead

    def __call__(self, request: Any) -> Say:
        written = request.messages[-2].content if "cut off at its length" in said(request) else ""
        start = written.rindex(ending(written)) if written else 0
        text = self.whole[start:][: self.size + (len(written) - start)]
        done = start + len(text) >= len(self.whole)
        lead = self.lead if written else ""
        return Say(pieces=list(lead + text), finish_reason="stop" if done else "length")


def asked(fusion: Any, script: Any, options: str = "") -> Any:
    model = ScriptedModel(script, name="scripted/frontier", respect_limit=False)
    result, events = run(fusion({"frontier": model}), pipeline=pipeline(ONE % options))
    return result, events, model


@pytest.mark.parametrize("whole", LANGUAGES.values(), ids=LANGUAGES)
@pytest.mark.parametrize("lead", ["", "Here is the rest:\n"])
def test_an_answer_cut_off_three_times_is_whole(fusion: Any, whole: str, lead: str) -> None:
    for size in (len(whole) // 4 + 1, len(whole) // 4 + 3, len(whole) // 4 + 7):
        result, events, model = asked(fusion, Writer(whole, size, lead))
        assert (result.status, result.text) == ("ok", whole)
        assert len(model.requests) == 4
        calls = [event for event in events if isinstance(event, CallFinished)]
        assert [call.step for call in calls] == ["generate", *(f"generate-continued-{n}" for n in (1, 2, 3))]
        assert sum(line.calls for line in result.receipt.lines) == 4
        assert result.usage.output == sum(call.usage.output for call in calls)


@settings(max_examples=200, deadline=None, derandomize=True)
@example(cuts=(100, 1100, 2590), back=0)
@given(
    cuts=st.tuples(st.integers(100, 1000), st.integers(1100, 2000), st.integers(2100, 3000)), back=st.integers(0, 80)
)
def test_pieces_that_only_go_on_or_say_too_much_again_are_joined(cuts: tuple[int, ...], back: int) -> None:
    written = ""
    for start, end in pairwise((0, *cuts, len(WHOLE))):
        begin = start if back < 15 else WHOLE.rfind(" ", 0, max(start - back, 0)) + 1
        written = joined(written, WHOLE[begin:end]) if written else WHOLE[:end]
    assert written == WHOLE


@pytest.mark.parametrize(
    ("written", "piece", "whole"),
    [
        ("The ship lay in the harb", "our for a day.", "The ship lay in the harbour for a day."),
        ("The ship lay in the harb", "harbour for a day.", "The ship lay in the harbour for a day."),
        ("The ship lay in the harb", "lay in the harbour.", "The ship lay in the harbour."),
        ("The ship lay in the harbour", " for a day.", "The ship lay in the harbour for a day."),
        ("The ship lay in the harbour", "the harbour for a day.", "The ship lay in the harbour for a day."),
        ("It lay in the", "the harbour.", "It lay in the harbour."),
        ("It lay in the harbour.", "It left.", "It lay in the harbour. It left."),
        ("It is 3.", "14 long", "It is 3.14 long"),
        ("A tomato and a banan", "a.", "A tomato and a banana."),
        ("They paid 1", "180 euros", "They paid 1180 euros"),
        (
            "All is said in these seven or eight words.",
            "in these seven or eight words.",
            "All is said in these seven or eight words.",
        ),
        ("word12 word1", "3 word14", "word12 word13 word14"),
    ],
)
def test_seams(written: str, piece: str, whole: str) -> None:
    assert joined(written, piece) == whole


@pytest.mark.parametrize("step", [1, 3, 40, 4000])
def test_whoever_follows_sees_the_answer_as_it_is(fusion: Any, step: int) -> None:
    size = len(WHOLE) // 4 + 3

    def script(request: Any) -> Say:
        say = Writer(WHOLE, size, "So: ")(request)
        text = "".join(piece for _, piece in say.stream())
        return Say(pieces=[text[at : at + step] for at in range(0, len(text), step)], finish_reason=say.finish_reason)

    one = fusion({"frontier": ScriptedModel(script, name="scripted/frontier", respect_limit=False)})
    stream = one.stream("do it", pipeline=pipeline(ONE % ""))
    assert "".join(stream) == WHOLE == stream.result.text
    assert stream.restarts == 0


def test_what_was_shown_and_turns_out_otherwise_is_shown_anew() -> None:
    shown: list[str] = []

    class Screen:
        committed = False

        def add(self, text: str) -> None:
            shown.append(text)

        def restart(self) -> None:
            shown.clear()

    stitches = Stitches(Screen())
    stitches.add("The ship lay in the town of Oslo and in the harb")
    assert stitches.take("The ship lay in the town of Oslo and in the harb")
    for piece in ("of Oslo and ", "half of it"):
        stitches.add(piece)
    stitches.restart()
    for piece in ("lay in the town of Oslo ", "and in the", " port for a day."):
        stitches.add(piece)
    assert "".join(shown) == "The ship lay in the town of Oslo and in the port for a day."
    assert stitches.take("lay in the town of Oslo and in the port for a day.")
    assert "".join(shown) == stitches.written == "The ship lay in the town of Oslo and in the port for a day."


def test_a_model_that_never_ends_is_stopped_and_says_so(fusion: Any) -> None:
    endless = Writer(WHOLE * 2, 300)
    result, _, model = asked(fusion, endless, ", continuations: 2")
    assert result.error.message.startswith("'scripted/frontier' was cut off at its output limit, and again")
    assert len(model.requests) == 3
    result, _, model = asked(fusion, Say("the same words again and again and again", finish_reason="length"))
    assert (result.status, len(model.requests)) == ("failed", 2)


def test_without_continuations_an_answer_cut_off_is_a_failure(fusion: Any) -> None:
    result, _, model = asked(fusion, Writer(WHOLE, 300), ", continuations: 0")
    assert "raise `max_tokens`" in result.error.message
    assert len(model.requests) == 1


def test_data_is_not_continued(fusion: Any) -> None:
    result, _, model = asked(fusion, Say('{"n": 7', finish_reason="length"), ", schema: {n: integer}")
    assert (result.status, len(model.requests)) == ("failed", 1)
    for options in (", schema: {n: integer}, continuations: 1", ", continuations: 0, continue_prompt: a/b"):
        with pytest.raises(Exception, match="no effect"):
            pipeline(ONE % options)


def test_items_are_continued_too_and_whoever_is_asked_next_begins_anew(fusion: Any) -> None:
    text = """
inputs: {rows: {default: [a]}}
stages:
  work: {kind: map, over: inputs.rows, continuations: 1, on_error: escalate, escalate_to: frontier, prompt: go on}
output: work
"""
    bulk = ScriptedModel(Writer(WHOLE, 300), name="scripted/bulk", respect_limit=False)
    one = fusion({"bulk": bulk, "frontier": "short"})
    result, events = run(one, None, pipeline=pipeline(text))
    assert result.data == ["short"]
    assert [event.step for event in events if isinstance(event, CallFinished)] == [
        "work",
        "work-continued-1",
        "work-escalated",
    ]


def test_a_stream_is_begun_again_where_another_model_writes_anew(fusion: Any) -> None:
    text = ONE % ", role: bulk, continuations: 0, on_error: escalate, escalate_to: frontier"
    one = fusion({"bulk": Say("half of it", finish_reason="length"), "frontier": "all of it"})
    shown: list[str] = []

    def watch(event: Any) -> None:
        if isinstance(event, Restarted):
            shown.clear()
        elif isinstance(event, Delta):
            shown.append(event.text)

    stream = one.stream("do it", pipeline=pipeline(text), on_event=watch)
    list(stream)
    assert "".join(shown) == "all of it" == stream.result.text


def test_the_budget_counts_every_continuation(fusion: Any) -> None:
    model = ScriptedModel(Writer(WHOLE, 1300), name="scripted/frontier", respect_limit=False)
    result, _ = run(fusion({"frontier": model}, budget={"calls": 2}), pipeline=pipeline(ONE % ""))
    assert (result.status, result.error.reason) == ("failed", "BudgetError")
    assert len(model.requests) == 2
    assert "cut off at its length limit" in said(model.requests[1])
