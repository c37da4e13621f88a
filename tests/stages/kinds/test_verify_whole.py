"""verify among other stages: item by item, resumed after a kill, quoted, and refused where it is written wrongly."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, ScriptedModel
from fusion.core.errors import PipelineError
from fusion.core.events import CallFinished, CommandFinished, Decided, EventBase, ItemFinished
from fusion.core.types import Finished, Limits
from fusion.pipeline.spec import Pipeline
from fusion.sandbox import SandboxDoor
from fusion.sandbox.base import Command
from fusion.store.rows import RunFilter
from tests.conftest import pipeline, run, said
from tests.processes import exit_code

ROWS = """
inputs: {rows: {format: jsonl}}
stages:
  work: {kind: map, over: inputs.rows, role: ROLE, prompt: "Write {{ item.word }}."}
  check: {kind: verify, over: work, OPTIONS}
output: {items: check, verdicts: check.verdicts}
"""
WORDS = ["red", "green", "blue", "grey"]
RIGHT = 'check: {expression: "value == item.word"}'


def rows(words: list[str] = WORDS) -> str:
    return "\n".join(json.dumps({"word": word, "test": f"assert word == {word!r}"}) for word in words)


def writer(request: Any) -> str:
    """Writes a word; at first it gets those with an e wrong, and at its second try those with a g."""
    word = next(word for word in WORDS if f"Write {word}." in said(request))
    if "was checked" not in said(request):
        return "none" if "e" in word else word
    return "still none" if "g" in word else word


def stronger(request: Any) -> str:
    return next(word for word in WORDS if f"Write {word}." in said(request))


def of_rows(options: str, role: str = "bulk") -> Pipeline:
    return pipeline(ROWS.replace("OPTIONS", options).replace("ROLE", role))


def worked(fusion: Any, options: str, role: str = "bulk") -> tuple[Any, list[EventBase]]:
    roles = {"bulk": writer, "frontier": stronger}
    return run(fusion(roles), None, inputs={"rows": rows()}, pipeline=of_rows(options, role))


# Items.


def test_each_item_is_checked_and_repaired_by_itself(fusion: Any) -> None:
    result, events = worked(fusion, f"{RIGHT}, attempts: 1, escalate_to: frontier")
    assert result.data["items"] == WORDS
    assert [item.by for item in result.stages["check"].items] == [f"scripted/{r}" for r in BY]
    assert [one["attempts"] for one in result.data["verdicts"]] == [2, 3, 2, 3]
    assert all(one["passed"] for one in result.data["verdicts"])
    reasons = {one.item: one.reason for one in events if isinstance(one, ItemFinished) and one.stage == "check"}
    assert reasons[1] == "passed at attempt 3, by scripted/frontier"
    (decision,) = [one for one in events if isinstance(one, Decided)]
    assert (decision.decision, decision.reason) == ("passed: 4, failed: 0", "items by their last verdict")
    first = [(one.item, one.verdict, one.by) for one in result.stages["check"].verdicts if one.given]
    assert first == [(at, "revise", "checks") for at in range(4)]


BY = ["bulk", "frontier", "bulk", "frontier"]


@pytest.mark.parametrize(
    ("on_fail", "on_error", "status", "ok"),
    [
        ("answer", "skip", "ok", [True] * 4),
        ("fail", "skip", "partial", [True, False, True, False]),
        ("fail", "fail", "failed", []),
        ("answer", "fail", "ok", [True] * 4),
        ("fail", "skip, min_ok: 3", "failed", [True, False, True, False]),
    ],
)
def test_items_that_never_pass_end_as_the_stage_says(
    fusion: Any, on_fail: str, on_error: str, status: str, ok: list[bool]
) -> None:
    result, _ = worked(fusion, f"{RIGHT}, attempts: 1, on_fail: {on_fail}, on_error: {on_error}")
    assert result.status == status
    items = result.stages["check"].items
    if ok:
        assert [item.ok for item in items] == ok
    if on_fail == "fail" and ok:
        assert "not passed after attempt 2, by scripted/bulk: this does not hold of it" in items[1].failure.message


def test_a_role_chosen_by_item_repairs_its_own(fusion: Any) -> None:
    chosen = """[{when: "item.word == 'red'", use: frontier}, {use: bulk}]"""
    result, _ = worked(fusion, f"{RIGHT}, attempts: 1", chosen)
    assert [item.by for item in result.stages["check"].items] == ["scripted/frontier", *["scripted/bulk"] * 3]
    assert [one["passed"] for one in result.data["verdicts"]] == [True, False, True, False]


@pytest.mark.needs("bwrap")
def test_tests_of_an_item_come_from_its_source(fusion: Any) -> None:
    check = """check: {python: "{{ item.test }}", files: {solution_of.txt: "{{ value }}"}}"""
    bulk = lambda request: f"word = {next(w for w in WORDS if f'Write {w}.' in said(request))!r}"  # noqa: E731
    one = fusion({"bulk": bulk})
    result, events = run(one, None, inputs={"rows": rows()}, pipeline=of_rows(check))
    assert result.status == "ok", result.error
    assert [v["passed"] for v in result.data["verdicts"]] == [True] * 4
    assert sum(isinstance(event, CommandFinished) for event in events) == 4


def test_the_repair_sees_what_the_writer_was_shown(fusion: Any) -> None:
    seen: list[str] = []

    def bulk(request: Any) -> str:
        seen.append(said(request))
        return writer(request)

    run(fusion({"bulk": bulk}), None, inputs={"rows": rows(["red"])}, pipeline=of_rows(f"{RIGHT}, attempts: 1"))
    assert len(seen) == 2
    assert "Write red." in seen[1]
    assert "this does not hold of it" in seen[1]


# A run that is killed.

CHAIN = """
inputs: {task: A task.}
stages:
  write: {kind: generate, role: bulk, prompt: "Write this: {{ inputs.task }}"}
  check:
    kind: verify
    value: write
    check: {python: "assert answer == 4"}
    attempts: 2
    escalate_to: frontier
    escalations: 1
output: check
"""


class Counted:
    """Counts calls and commands in a file that outlives its process, and kills the process at the n-th of them."""

    def __init__(self, folder: Path, last: int | None = None) -> None:
        self._folder = folder
        self._last = last

    def note(self, what: str) -> None:
        (self._folder / f"{len(self.all) + 1:03}").write_text(what)
        if self._last is not None and len(self.all) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    @property
    def all(self) -> list[str]:
        return [path.read_text() for path in sorted(self._folder.glob("[0-9]*"))]

    def roles(self) -> dict[str, ScriptedModel]:
        return {role: ScriptedModel(self._script(role), name=f"scripted/{role}") for role in ("bulk", "frontier")}

    def _script(self, role: str) -> Callable[[Any], str]:
        def script(request: Any) -> str:
            self.note(f"{role} {request.key.step}")
            return {"generate": "answer = 1", "repair-1": "answer = 2", "repair-2": "answer = 3"}.get(
                request.key.step, "answer = 4"
            )

        return script

    async def run(self, door: SandboxDoor, command: Command) -> Finished:
        code = command.files["solution.py"].decode()
        self.note(f"run {code}")
        mark = command.stdin.decode().partition("\n")[0]
        return Finished(0, mark, "") if code == "answer = 4" else Finished(1, "", f"wrong: {code}")


WHOLE = [
    "bulk generate",
    "run answer = 1",
    "bulk repair-1",
    "run answer = 2",
    "bulk repair-2",
    "run answer = 3",
    "frontier escalate-1",
    "run answer = 4",
]


def started(folder: Path, last: int | None) -> None:
    counted = Counted(folder, last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SandboxDoor, "run", lambda door, command: counted.run(door, command))
        with Fusion(profile="local", roles=counted.roles(), store=folder / "runs.db") as made:
            made.complete("the task", pipeline=pipeline(CHAIN))


def test_calls_and_runs_follow_each_other(tmp_path: Path) -> None:
    started(tmp_path, None)
    assert Counted(tmp_path).all == WHOLE


@pytest.mark.parametrize("last", [2, 5, 8])
def test_a_killed_run_repeats_no_finished_call_and_no_finished_command(
    tmp_path: Path, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code(started, tmp_path, last) == -signal.SIGKILL
    counted = Counted(tmp_path)
    assert counted.all == WHOLE[:last]
    monkeypatch.setattr(SandboxDoor, "run", lambda door, command: counted.run(door, command))
    events: list[EventBase] = []
    with Fusion(profile="local", roles=counted.roles(), store=tmp_path / "runs.db") as made:
        (row,) = made.store.runs(RunFilter())
        result = made.resume(row.run_id, on_event=events.append)
    assert result.text == "answer = 4"
    assert counted.all == WHOLE[:last] + WHOLE[last - 1 :]
    reused = [one for one in events if isinstance(one, CallFinished) and one.reused == "journal"]
    again = [one for one in events if isinstance(one, CommandFinished) and one.reused]
    assert (len(reused), len(again)) == (last // 2, (last - 1) // 2)


# Within other stages.


@pytest.mark.parametrize(
    "text",
    [
        "again: {kind: loop, max: 3, until: check.passed, body: {write: WRITE, check: CHECK}}",
        "write: WRITE\n  way: {kind: route, rules: [{longer: 1, use: easy}], "
        "routes: {easy: CHECK, hard: frontier}, default: hard}",
        "write: WRITE\n  check: CHECK\n  twice: {kind: verify, value: check, check: {min_length: 1}}",
    ],
    ids=["loop", "route", "verify"],
)
def test_the_writer_is_found_within_other_stages(fusion: Any, text: str) -> None:
    text = text.replace("WRITE", '{kind: generate, role: bulk, prompt: "Write {{ inputs.task }}"}')
    text = text.replace("CHECK", "{kind: verify, value: write, check: {contains: right}, attempts: 1}")
    name = text.split("\n")[-1].strip().partition(":")[0]
    bulk = ScriptedModel(["wrong", "right"], name="scripted/bulk")
    made = pipeline(f"inputs: {{task: A task.}}\nstages:\n  {text}\noutput: {name}\n")
    result, _ = run(fusion({"bulk": bulk, "frontier": "x"}), "the task", pipeline=made)
    assert result.text == "right"
    assert "Write the task" in said(bulk.requests[1])


def test_tests_read_nothing_that_a_loop_carries(tmp_path: Path) -> None:
    check = "{kind: verify, value: write, check: {python: '{{ loop.last }}'}}"
    write = "{kind: generate, role: bulk, prompt: 'Write {{ inputs.task }}'}"
    body = f"{{write: {write}, check: {check}}}"
    loop = f"{{kind: loop, max: 3, until: check.passed, carry: {{last: write}}, body: {body}}}"
    said = flaws(tmp_path / "test.yaml", f"inputs: {{task: A task.}}\nstages:\n  again: {loop}\noutput: again\n")
    assert "no model writes them" in said


# The quote.


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ("check: {contains: right}, attempts: 0", 4),
        ("check: {contains: right}, continuations: 0", 4 + 2 * 2),
        ("check: {contains: right}, attempts: 1, escalate_to: frontier, escalations: 2", 4 + 3 * 4),
        ("check: {python: 'assert True', judge: frontier}, attempts: 1, escalate_to: frontier", 4 + 2 * 4 + 3 * 2),
    ],
)
def test_the_worst_case_counts_every_repair_and_verdict(
    fusion: Any, options: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(self: SandboxDoor, command: Command) -> Finished:
        raise AssertionError("a quote runs nothing")

    monkeypatch.setattr(SandboxDoor, "run", refused)
    text = f"""
inputs: {{task: A task.}}
stages:
  write: {{kind: generate, role: bulk, prompt: "Write {{{{ inputs.task }}}}"}}
  check: {{kind: verify, value: write, {options}}}
output: check
"""
    one = fusion({"bulk": "x", "frontier": "y"})
    quote = one.quote("the task", pipeline=pipeline(text))
    assert quote.calls.most == most
    assert quote.calls.low >= 1
    assert quote.calls.high <= most


def test_a_budget_that_is_exhausted_leaves_the_answer_as_it_is(fusion: Any) -> None:
    text = CHAIN.replace('python: "assert answer == 4"', "contains: right").replace(
        "stages:", "on_budget: finish\nstages:"
    )
    one = fusion({"bulk": "wrong", "frontier": "right"})
    result, _ = run(one, "the task", pipeline=pipeline(text), budget=Limits(calls=1))
    assert result.text == "wrong"
    assert any("exceeds the budget" in note for note in result.notes) or result.status == "partial"


# What is refused.


def flaws(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        Fusion(profile="local").load(path)
    return str(caught.value)


WRONG = """\
inputs: {task: A task., rows: {format: jsonl, default: ""}}
stages:
  write: {kind: generate, role: bulk, prompt: "Write {{ inputs.task }}"}
  cheap: {kind: cascade, tiers: [bulk, frontier], accept: {checks: {min_length: 1}}}
  tests: {kind: generate, role: bulk, prompt: "Tests of {{ inputs.task }}"}
  plan: {kind: plan, role: frontier}
  work: {kind: map, over: plan, role: bulk}
  check: {kind: verify, OPTIONS}
output: "[write, cheap, tests, plan, work, check]"
"""
LINE = "test.yaml:8:"


@pytest.mark.parametrize(
    ("options", "place", "words"),
    [
        ("value: write, check: {}", "stages.check.check", "no condition for an answer"),
        ("check: {contains: x}", "stages.check", "give `value`, the answer to check, or `over`"),
        ("value: write, over: work, check: {contains: x}", "stages.check", "give `value`"),
        ("value: wrote, check: {contains: x}", "stages.check.value", "did you mean 'write'"),
        ("value: cheap, check: {contains: x}", "stages.check.value", "give the `role` that repairs"),
        ("value: inputs.task, check: {contains: x}", "stages.check.value", "give the `role` that repairs"),
        ("value: write, check: {contains: x}, attempts: 11", "stages.check.attempts", "10"),
        ("value: write, check: {contains: x}, escalations: 2", "stages.check", "`escalate_to` only"),
        ("value: write, check: {contains: x}, attempts: 0, role: bulk", "stages.check", "`role` has no effect"),
        ("value: write, check: {contains: x}, on_fail: stop", "stages.check.on_fail", "'answer' or 'fail'"),
        ("value: write, check: {contains: x, files: {a: b c}}", "stages.check.check", "`files` has an effect"),
        ("value: write, check: {python: assert 1, command: [ls]}", "stages.check.check", "give one of them"),
        ("value: write, check: {command: []}", "stages.check.check.command", "expected 1 or more entries"),
        ("value: write, check: {python: '{{ tests }}'}", "stages.check.check.python", "no model writes them"),
        ("over: work, check: {python: '{{ item.value }}'}", "stages.check.check.python", "no model writes them"),
        ("over: work, check: {python: '{{ item.title }}'}", "stages.check.check.python", "no model writes them"),
        (
            "value: write, check: {judge: {role: bulk, prompt: 'Is it right? {{ value }}'}}",
            "stages.check.check.judge.prompt",
            "has to see what it judges against",
        ),
        (
            "value: write, check: {python: assert 1, files: {tests.py: '# {{ code }}'}}",
            "stages.check.check",
            "rename",
        ),
        ("value: write, check: {python: assert 1, limits: {seconds: 0}}", "stages.check.check.limits.seconds", "0"),
        ("value: write, check: {python: assert 1, limits: {second: 1}}", "stages.check.check.limits", "seconds"),
        ("value: write, check: {expression: value ==}", "stages.check.check.expression", ""),
    ],
)
def test_a_mistake_is_named_at_its_place(tmp_path: Path, options: str, place: str, words: str) -> None:
    said = flaws(tmp_path / "test.yaml", WRONG.replace("OPTIONS", options))
    line = next((line for line in said.splitlines() if place in line), said)
    assert LINE in line, said
    assert words in line, said


def test_the_source_of_rows_is_no_models_word(fusion: Any) -> None:
    text = ROWS.replace("ROLE", "bulk").replace("OPTIONS", "check: {python: '{{ item.test }}'}")
    fusion({"bulk": "x"}).load(pipeline(text))


def test_the_yaml_of_a_pipeline_is_written_back_as_it_was(fusion: Any) -> None:
    made = pipeline(CHAIN)
    assert made.to_data()["stages"]["check"] == {
        "kind": "verify",
        "value": "write",
        "check": {"python": "assert answer == 4"},
        "attempts": 2,
        "escalate_to": "frontier",
        "escalations": 1,
    }
    assert Pipeline.from_data(made.to_data()) == made


def test_a_preview_shows_the_first_repair_and_runs_nothing(fusion: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SandboxDoor, "run", None)
    one = fusion({"bulk": "x", "frontier": "y"})
    shown = one.preview("the task", pipeline=pipeline(CHAIN), given={"write": {"text": "answer = 1"}}, stage="check")
    (stage,) = shown.stages
    assert stage.most_calls == 3 * 4
    (call,) = stage.calls
    assert "answer = 1" in call.messages[-1].content
    assert "what the command says" in call.messages[-1].content
