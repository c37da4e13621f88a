"""The role of the reviewer: the frontier chain, one's own frontier model, or none."""

from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Model, Pipeline, RoleSpec, ScriptedModel, UsageError
from fusion.core.errors import FusionError, PipelineError
from fusion.core.events import ItemFinished, Noted, RunStarted
from fusion.core.params import NO_MODEL
from fusion.models.profiles import load_profiles
from tests.conftest import frontier, own_settings, pipeline, run

REVIEWED = """
inputs: {task: what is to be done}
ROLES
stages:
  work: {kind: map, over: "['a', 'b', 'c']", role: bulk, prompt: "do {{ item.source }}"}
  review: {kind: review, over: work, role: reviewerBATCH}
  answer: {kind: merge, over: review, strategy: concat, separator: ","}
output: answer
"""
NOTE = "review: unreviewed: 3 of 3 items; the role of the reviewer is none"


def reviewed(*, batch: str = "", roles: str = "") -> Pipeline:
    return pipeline(REVIEWED.replace("BATCH", batch).replace("ROLES", roles))


def cast(fusion: Any, roles: dict[str, Any], **more: Any) -> Fusion:
    """Return a Fusion with these roles; ids and chains are given as they are, scripts as models."""
    as_given = {"none", "local/strong"}
    made = {
        role: one if isinstance(one, (Model, RoleSpec)) or one in as_given else ScriptedModel(one, name=f"s/{role}")
        for role, one in roles.items()
    }
    return fusion(**more).using(roles=made)  # type: ignore[no-any-return]


# Roles that are none.


@pytest.mark.parametrize("given", ["option", "spec", "pipeline", "settings", "profile", "embedded"])
def test_without_a_reviewer_items_pass_unreviewed_and_it_is_said(
    fusion: Any, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk = ScriptedModel("done", name="scripted/bulk")
    roles: dict[str, Any] = {"bulk": bulk}
    if given == "option":
        roles["reviewer"] = "none"
    elif given == "spec":
        roles["reviewer"] = RoleSpec(chain=("none",))
    elif given == "settings":
        own_settings(tmp_path, monkeypatch)('[roles]\nreviewer = "none"\n')
    elif given == "embedded":
        roles["frontier"] = "local/strong"
    made = reviewed(roles="roles: {reviewer: none}" if given == "pipeline" else "")
    result, events = run(cast(fusion, roles), pipeline=made)
    assert (result.status, result.text) == ("ok", "done,done,done")
    assert NOTE in result.notes
    assert any(isinstance(event, Noted) and "unreviewed" in event.message for event in events)
    started = next(event for event in events if isinstance(event, RunStarted))
    assert started.roles["reviewer"] == "none"
    assert len(bulk.requests) == 3
    assert {line.role for line in result.receipt.lines} == {"bulk"}
    assert sum(isinstance(event, ItemFinished) and event.stage == "review" for event in events) == 3


@pytest.mark.parametrize("batch", ["", ", batch: 2", ", batch: 5", ", checks: {max_length: 9}", ", criteria: short"])
def test_none_does_without_any_way_of_review(fusion: Any, batch: str) -> None:
    bulk = ScriptedModel("done", name="scripted/bulk")
    result, _ = run(cast(fusion, {"bulk": bulk, "reviewer": "none"}), pipeline=reviewed(batch=batch))
    assert (result.status, result.text, len(bulk.requests)) == ("ok", "done,done,done", 3)
    assert NOTE in result.notes


def test_checks_still_send_a_value_back(fusion: Any) -> None:
    bulk = ScriptedModel(lambda request: "ok" if "not accepted" in str(request.messages) else "far too long")
    made = reviewed(batch=", checks: {max_length: 5}")
    result, _ = run(cast(fusion, {"bulk": bulk, "reviewer": "none"}), pipeline=made)
    assert (result.status, result.text) == ("ok", "ok,ok,ok")
    assert len(bulk.requests) == 6


@pytest.mark.parametrize("name", ["plan-execute-review", "line-by-line"])
def test_shipped_pipelines_review_by_the_role(fusion: Any, name: str) -> None:
    reviewer = ScriptedModel(frontier(), name="scripted/reviewer")
    inputs = {"lines": "one\ntwo"} if name == "line-by-line" else {}
    models = {"frontier": frontier(2), "bulk": "done"}
    result, _ = run(cast(fusion, {**models, "reviewer": reviewer}), "do", pipeline=name, inputs=inputs)
    assert result.status == "ok"
    assert reviewer.requests
    result, _ = run(cast(fusion, {**models, "reviewer": "none"}), "do", pipeline=name, inputs=inputs)
    assert (result.status, any("unreviewed: 2 of 2" in note for note in result.notes)) == ("ok", True)


# The reviewer that a profile gives.


def test_every_profile_has_its_frontier_chain_review_and_the_embedded_one_nobody() -> None:
    for name, profile in load_profiles().items():
        assert profile.roles["reviewer"] == ((NO_MODEL,) if name == "local" else profile.roles["frontier"])


@pytest.mark.parametrize("where", ["option", "pipeline", "settings"])
def test_ones_own_frontier_model_reviews_too(
    fusion: Any, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ScriptedModel(frontier(), name="scripted/own")
    roles: dict[str, Any] = {"bulk": "done"}
    if where == "option":
        roles["frontier"] = own
    elif where == "settings":
        own_settings(tmp_path, monkeypatch)('[roles]\nfrontier = "scripted/own"\n')
    made = reviewed(roles="roles: {frontier: scripted/own}" if where == "pipeline" else "")
    result, _ = run(cast(fusion, roles, models={} if where == "option" else {"scripted/own": own}), pipeline=made)
    assert (result.status, len(own.requests)) == ("ok", 3)


# Mistakes.


@pytest.mark.parametrize(
    ("stages", "roles", "message"),
    [
        ("a: {kind: generate, role: frontier}", {"frontier": "none"}, r"stages\.a\.role: role 'frontier' is 'none'"),
        (
            "a: {kind: plan, role: lead}",
            {"lead": "none"},
            r"role 'lead' is 'none', and a plan stage",
        ),
        ("a: {kind: map, over: '[1]', role: bulk}", {"bulk": "none"}, r"a map stage needs a model"),
        ("a: {kind: panel, members: [bulk, second]}", {"second": "none"}, r"role 'second' is 'none'"),
        ("a: {kind: merge, over: '[1]', role: bulk}", {"bulk": "none"}, r"only the `role` of a review"),
    ],
)
def test_a_stage_that_needs_a_model_refuses_none(fusion: Any, stages: str, roles: Any, message: str) -> None:
    text = f"inputs: {{task: t}}\nroles: {{lead: x/y}}\nstages:\n  {stages}\noutput: a"
    given = {"bulk": "b", "second": "s", "frontier": "f", **dict.fromkeys(roles, "none")}
    with pytest.raises(UsageError, match=message):
        run(cast(fusion, given), pipeline=pipeline(text))


def test_an_escalation_refuses_none(fusion: Any) -> None:
    made = reviewed(batch=", escalate_to: best", roles="roles: {best: none}")
    with pytest.raises(UsageError, match=r"stages\.review\.escalate_to: role 'best' is 'none'"):
        run(cast(fusion, {"bulk": "b", "reviewer": "none"}), pipeline=made)


@pytest.mark.parametrize("chain", [["none", "openai/gpt-5.6"], ["openai/gpt-5.6", "none"], ["none", "none"]])
def test_none_is_no_model_of_a_chain(chain: list[str]) -> None:
    with pytest.raises((PipelineError, FusionError), match="none"):
        reviewed(roles=f"roles: {{reviewer: {{chain: [{', '.join(chain)}]}}}}")


# Quotes.


@pytest.mark.parametrize("batch", ["", ", batch: 5", ", criteria: short", ", revisions: 2", ", escalate_to: bulk"])
def test_a_quote_has_no_call_for_none(fusion: Any, precise: None, batch: str) -> None:
    made = cast(fusion, {"bulk": "b", "reviewer": "none"})
    quote = made.quote("do it", pipeline=reviewed(batch=batch))
    assert quote.roles["reviewer"] == "none"
    assert quote.stages[1].calls.high == 0
    assert (quote.calls.low, quote.calls.high) == (3, 3)
