"""plan: a model whose streams break off hands the rest of the plan to the next of its chain."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Say, ScriptedModel
from fusion.core.errors import BadResponseError, ModelConnectionError, RateLimitError
from tests.conftest import pipeline, plan_text, run, said, subtasks

TEXT = """
inputs: {{task: What.}}
roles: {{frontier: {{chain: [{chain}]}}, bulk: {{chain: [m/worker]}}}}
stages:
  plan: {{kind: plan, role: frontier}}
  work: {{kind: map, over: plan, role: bulk, prompt: "do {{{{ item.title }}}}"}}
  answer: {{kind: merge, over: work, strategy: concat}}
output: answer
"""
WHOLE = plan_text(subtasks(4))
SECOND = WHOLE.index('{"title": "part 2"')
THIRD = WHOLE.index('{"title": "part 3"')
REST = plan_text(subtasks(4)[1:])


def broken(how: str, at: int = SECOND) -> Any:
    """Says the first subtasks, and ends as told."""
    pieces = [WHOLE[:at], WHOLE[at : at + 9]]
    errors: dict[str, Exception] = {
        "connection": ModelConnectionError("dropped half-way"),
        "bad response": BadResponseError("its stream broke off"),
        "rate limit": RateLimitError("slow down", retry_after=0.0),
    }
    if how == "no finish reason":
        return Say(pieces=pieces, finish_reason=None)
    return Say(pieces=pieces, error=errors[how])


def models(**scripts: Any) -> dict[str, ScriptedModel]:
    made = {
        f"m/{name}": ScriptedModel(script, name=f"m/{name}", respect_limit=False) for name, script in scripts.items()
    }
    made["m/worker"] = ScriptedModel(lambda request: said(request), name="m/worker")
    return made


def planned(text: str) -> Any:
    """A planner that is well: the whole plan, or the rest of one that it is shown."""
    return lambda request: REST if request.messages[-2].role == "assistant" else text


@pytest.mark.parametrize("how", ["connection", "bad response", "rate limit", "no finish reason"])
@pytest.mark.parametrize("order", [["cut", "good"], ["cut", "dull", "good"], ["dead", "cut", "good"]])
def test_the_next_model_of_the_chain_writes_the_rest(
    fusion: Any, without_pauses: None, how: str, order: list[str]
) -> None:
    cast = models(
        cut=lambda request: broken(how),
        dull=lambda request: broken(how),
        dead=ModelConnectionError("gone"),
        good=planned(WHOLE),
    )
    text = TEXT.format(chain=", ".join(f"m/{name}" for name in order))
    result, _ = run(fusion(models=cast), pipeline=pipeline(text))
    assert result.status == "ok", result.error
    assert result.stages["plan"].items[0].source["title"] == "part 1"
    assert result.stages["plan"].items[-1].source["title"] == "part 4"
    assert len(cast["m/good"].requests) == 1


def test_a_plan_that_breaks_off_everywhere_says_so_and_not_to_raise_max_tokens(
    fusion: Any, without_pauses: None
) -> None:
    cast = models(cut=lambda request: broken("connection"), also=lambda request: broken("bad response"))
    result, _ = run(fusion(models=cast), pipeline=pipeline(TEXT.format(chain="m/cut, m/also")))
    assert result.status == "failed"
    assert result.error is not None
    assert "broke off 4 times" in result.error.message
    assert "max_tokens" not in result.error.message
    assert [len(cast[f"m/{name}"].requests) for name in ("cut", "also")] == [2, 2]


def test_a_plan_cut_off_at_its_limit_is_still_told_to_raise_it(fusion: Any) -> None:
    cast = models(short=lambda request: Say(pieces=[WHOLE[:SECOND]], finish_reason="length"))
    result, _ = run(fusion(models=cast), pipeline=pipeline(TEXT.format(chain="m/short")))
    assert result.error is not None
    assert "raise `max_tokens`" in result.error.message


def test_a_resumed_run_asks_the_same_model_for_the_rest(tmp_path: Path, without_pauses: None) -> None:
    (tmp_path / "p.yaml").write_text("name: p" + TEXT.format(chain="m/cut, m/good"))
    fails = {"work": True}

    def worker(request: Any) -> Any:
        return ModelConnectionError("not yet") if fails["work"] and "part 3" in said(request) else said(request)

    cast = models(cut=lambda request: broken("connection"), good=planned(WHOLE))
    cast["m/worker"] = ScriptedModel(worker, name="m/worker")
    with Fusion(profile="local", models=cast, store=tmp_path / "runs.db") as made:
        text = (tmp_path / "p.yaml").read_text().replace("over: plan,", "over: plan, on_error: fail,")
        (tmp_path / "p.yaml").write_text(text)
        first, _ = run(made, pipeline=tmp_path / "p.yaml")
        assert first.status == "failed"
        fails["work"] = False
        asked = {name: len(model.requests) for name, model in cast.items()}
        again = made.resume(first.run_id)
        assert again.status == "ok"
        assert [item.source["title"] for item in again.stages["plan"].items] == [
            item.source["title"] for item in first.stages["plan"].items
        ]
        assert {name: len(model.requests) for name, model in cast.items() if name != "m/worker"} == {
            name: count for name, count in asked.items() if name != "m/worker"
        }
    assert json.loads(json.dumps(again.model_dump(mode="json")))["status"] == "ok"
