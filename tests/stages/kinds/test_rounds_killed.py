"""loop and best_of: a process that is killed at any call goes on there, and pays nothing twice."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Request, ScriptedModel
from fusion.store.rows import RunFilter
from tests.conftest import pipeline, said
from tests.engine.test_resume import Stopping
from tests.processes import exit_code

TEXTS = {
    "loop": """
inputs: {task: {}}
stages:
  again:
    kind: loop
    max: 5
    body:
      draft: {kind: generate, role: any, prompt: "WRITE {{ loop.round }} {{ loop.notes }}"}
      read: {kind: generate, role: any, schema: {good: boolean}, prompt: "READ {{ draft }}"}
    until: read.data.good
    carry: {notes: draft}
    output: draft
output: again
""",
    "best_of": """
inputs: {task: {}}
stages:
  best: {kind: best_of, roles: any, n: 3, choose: {judge: any}}
output: best
""",
}
CALLS = {"loop": 6, "best_of": 7}


def answer(request: Request) -> Any:
    words = said(request)
    if "better" in str(request.json_schema):
        return {"reason": "", "better": "second" if "answer 2" in words else "same"}
    if request.json_schema:
        return {"good": "(3" in words}
    return f"({words.split()[1]} after {words.count('after')})" if "WRITE" in words else f"answer {request.sample}"


def until_killed(path: Path, kind: str, number: int) -> None:
    """Run a pipeline; the process is killed when its model is asked for the n-th time."""
    asked = 0

    def script(request: Request) -> Any:
        nonlocal asked
        asked += 1
        if asked == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(request)

    with Fusion(model=ScriptedModel(script, name="stopping"), store=path) as fusion:
        fusion.complete("do it", pipeline=pipeline(TEXTS[kind]))


@pytest.mark.parametrize(("kind", "number"), [("loop", 3), ("loop", 6), ("best_of", 2), ("best_of", 5)])
def test_a_killed_process_goes_on_where_it_was(kind: str, number: int, tmp_path: Path) -> None:
    assert exit_code(until_killed, tmp_path / "runs.db", kind, number) == -signal.SIGKILL
    model = Stopping(answer)
    with Fusion(model=model, store=tmp_path / "runs.db") as fusion:
        (row,) = fusion.store.runs(RunFilter())
        again = fusion.resume(row.run_id)
        asked = model.asked
        whole = fusion.complete("do it", pipeline=pipeline(TEXTS[kind]))
    assert (again.status, again.text, again.receipt.calls) == ("ok", whole.text, CALLS[kind])
    finished = number - 1 if kind == "loop" or number > 3 else 0  # two candidates are asked at once
    assert asked <= CALLS[kind] - finished
