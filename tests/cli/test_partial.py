"""An answer that lacks parts: they are named, the exit code says so, and `resume` asks for them again."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Say, ScriptedModel
from tests.cli.conftest import Command, Ran
from tests.cli.conftest import command as command
from tests.conftest import said

HEAD = "name: parts\ninputs: {rows: rows with commas between}\nstages:\n"
WORK = '  work: {kind: map, over: "inputs.rows.split(\',\')", role: bulk, prompt: "do {{ item.source }}"%s}\n'
MERGE = "  answer: {kind: merge, over: work, strategy: concat%s}\noutput: answer\n"
REVIEW = (
    '  check: {kind: review, over: work, role: bulk, prompt: "check {{ item.source }}: {{ item }}"}\n'
    "  answer: {kind: merge, over: check, strategy: concat}\noutput: answer\n"
)
SHAPES = {
    "map": HEAD + WORK % "" + "output: work\n",
    "merge": HEAD + WORK % "" + MERGE % "",
    "review": HEAD + WORK % "" + REVIEW,
    "chain": HEAD
    + WORK % ""
    + '  more: {kind: map, over: work, role: bulk, prompt: "again {{ item.value }}"}\noutput: more\n',
    "nested": HEAD + "  sub: {kind: pipeline, pipeline: ./merge.yaml, inputs: {rows: inputs.rows}}\noutput: sub\n",
}


class Sick:
    """A model that fails on some words until they are healed."""

    def __init__(self) -> None:
        self.bad = {"bad", "worse"}
        self.asked: list[str] = []
        self.model = ScriptedModel(self._answer, name="scripted/sick", respect_limit=False)

    def _answer(self, request: Any) -> Any:
        words = said(request)
        self.asked.append(words)
        if request.json_schema is not None:
            return json.dumps({"issues": [], "verdict": "accept"})
        ill = any(word in self.bad for word in words.split())
        return Say(words, finish_reason="length") if ill else words


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Sick:
    from fusion.cli import session

    sick = Sick()
    models = {sick.model.info.id: sick.model}
    monkeypatch.setattr(session, "Fusion", functools.partial(Fusion, models=models, model=sick.model))
    return sick


@pytest.fixture
def run(command: Command, tmp_path: Path, sick: Sick) -> Any:
    def run(text: str, rows: str, *words: str) -> Ran:
        (tmp_path / "merge.yaml").write_text(SHAPES["merge"])
        (tmp_path / "p.yaml").write_text(text)
        return command("run", str(tmp_path / "p.yaml"), rows, "-m", "scripted/sick", *words)

    return run


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_lost_parts_are_exit_3_and_asked_again_by_resume(run: Any, command: Command, sick: Sick, shape: str) -> None:
    done = run(SHAPES[shape], "a,bad,c")
    assert done.code == 3
    assert "do a" in done.out
    assert "do c" in done.out
    assert "bad" not in done.out
    place = "sub/work" if shape == "nested" else "work"
    assert f"fusion: the answer is partial: {place} 2 (bad): BadResponseError: " in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("to ask again for what is lost: fusion resume ")
    run_id = last.split()[-1]

    sick.bad.clear()
    sick.asked.clear()
    again = command("resume", run_id)
    assert again.code == 0, again.err
    assert "do bad" in again.out
    assert again.out.index("do a") < again.out.index("do bad") < again.out.index("do c")
    assert all("bad" in words for words in sick.asked)
    assert command("resume", run_id, "-q").out == again.out
    assert all("bad" in words for words in sick.asked)


def test_what_is_lost_again_stays_partial(run: Any, command: Command, sick: Sick) -> None:
    done = run(SHAPES["merge"], "a,bad,worse")
    run_id = done.err.splitlines()[-1].split()[-1]
    sick.bad.remove("bad")
    sick.asked.clear()
    again = command("resume", run_id)
    assert (again.code, again.out) == (3, "do a\n\ndo bad\n")
    assert all("bad" in words or "worse" in words for words in sick.asked)
    assert again.err.splitlines()[-1] == f"to ask again for what is lost: fusion resume {run_id}"


@pytest.mark.parametrize(
    ("work", "merge", "rows", "code"),
    [
        ("", "", "a,b,c", 0),
        ("", "", "a,bad,c", 3),
        (", min_ok: 2", "", "a,bad,c", 0),
        (", min_ok: 1", "", "a,bad,worse", 0),
        ("", ", min_ok: 2", "a,bad,c", 0),
        (", min_ok: 60%", "", "a,bad,c", 0),
        (', min_ok: "66.6%"', "", "a,bad,c", 0),
        ("", ", min_ok: 50%", "a,bad,c,worse", 0),
        (", min_ok: 3", "", "a,bad,c", 3),
        (", min_ok: 67%", "", "a,bad,c", 3),
        (", min_ok: 100%", "", "a,bad,c", 3),
    ],
)
def test_a_min_ok_that_the_author_wrote_allows_a_loss(run: Any, work: str, merge: str, rows: str, code: int) -> None:
    done = run(HEAD + WORK % work + MERGE % merge, rows)
    assert done.code == code, done.err
    enough = code == 0 or not work
    assert bool(done.out) == enough


def test_allow_partial_is_exit_0_and_still_says_what_is_lost(run: Any, command: Command, sick: Sick) -> None:
    done = run(SHAPES["merge"], "a,bad,c", "--allow-partial")
    assert (done.code, done.out) == (0, "do a\n\ndo c\n")
    assert "the answer is partial: work 2 (bad)" in done.err
    run_id = done.err.splitlines()[-1].split()[-1]
    assert command("resume", run_id, "--allow-partial", "-q").code == 0
    assert command("resume", run_id, "-q").code == 3


def test_allow_partial_does_not_excuse_a_run_without_an_answer(run: Any) -> None:
    assert run(SHAPES["merge"], "bad,worse", "--allow-partial").code == 3


def test_equal_faults_of_many_items_are_one_line(run: Any) -> None:
    done = run(SHAPES["merge"], ",".join(["a", *["bad"] * 200]), "-q")
    assert done.code == 3
    lines = done.err.splitlines()
    assert len([line for line in lines if "BadResponseError" in line]) == 1
    assert lines[0].startswith("fusion: the answer is partial: work 2 (bad), 3 (bad), 4 (bad) and 197 more: ")


@pytest.mark.parametrize("given", ["-1", "1.5", "101%", "x", "true", "'%'"])
def test_a_min_ok_of_another_form_is_refused(run: Any, given: str) -> None:
    done = run(HEAD + WORK % f", min_ok: {given}" + MERGE % "", "a")
    assert done.code == 2
    assert "stages.work.min_ok: give a count such as 8, or a share such as 95%" in done.err


def test_python_returns_a_partial_result_and_names_what_is_lost(sick: Sick, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(SHAPES["merge"])
    with Fusion(model=sick.model, store=tmp_path / "runs.db") as fusion:
        result = fusion.complete("a,bad,c", pipeline=tmp_path / "p.yaml")
        assert (result.status, result.text) == ("partial", "do a\n\ndo c")
        assert [(part.stage, part.item) for part in result.lost] == [("work", 1)]
        sick.bad.clear()
        whole = fusion.resume(result.run_id)
        assert (whole.status, whole.text, whole.lost) == ("ok", "do a\n\ndo bad\n\ndo c", ())
