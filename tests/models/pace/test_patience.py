"""Patience: an outage is outlasted, as long as stage, role or defaults say; servers on loopback."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion import Fusion, Result, Settings
from fusion.core.config import Endpoint
from fusion.core.params import RoleSpec
from tests.conftest import pipeline, run
from tests.provider import Answer, Provider, Seen

pytestmark = pytest.mark.usefixtures("patient")
ONE = """
STAGE_DEFAULTS
stages: {a: {kind: generate, role: bulk, prompt: Say it. STAGE}}
output: a
"""
WIDE = pipeline("""
stages: {a: {kind: map, over: "range(40) | list", role: bulk, prompt: "{{ item.source }}"}}
output: a
""")
DOWN = {
    "500": Answer("down", status=500),
    "503": Answer("down", status=503),
    "503 with Retry-After": Answer("down", status=503, headers={"retry-after": "1"}),
    "529": Answer("overloaded", status=529),
    "429": Answer("slow down", status=429),
    "429 with Retry-After": Answer("slow down", status=429, headers={"retry-after": "1"}),
}


def outage(answer: Answer, seconds: float) -> Callable[[Seen], Answer]:
    """A script of a server that is down for so many seconds from its first request."""
    since: list[float] = []

    def script(_: Seen) -> Answer:
        since.append(time.monotonic())
        return answer if since[-1] - since[0] < seconds else Answer("fine")

    return script


def asked(provider: Provider, text: str = ONE, *, role: RoleSpec | None = None) -> tuple[Result, float]:
    """The result of a run on this server, and its seconds."""
    settings = Settings.from_environment()
    endpoints = {"mine": Endpoint(model="x", api_base=provider.url)}
    settings = settings.model_copy(update={"endpoints": endpoints})
    subject = pipeline(text.replace("STAGE_DEFAULTS", "").replace("STAGE", "")) if isinstance(text, str) else text
    with Fusion(settings=settings, roles={"bulk": role or RoleSpec(chain=("mine",))}) as fusion:
        began = time.monotonic()
        result, _ = run(fusion, None, pipeline=subject)
    return result, time.monotonic() - began


@pytest.mark.parametrize("down", DOWN)
def test_an_outage_of_a_second_loses_nothing(down: str) -> None:
    with Provider(outage(DOWN[down], 1.2)) as provider:
        result, seconds = asked(provider)
    assert (result.status, result.text) == ("ok", "fine")
    assert 1.0 < seconds < 15


@pytest.mark.parametrize("down", ["500", "429", "503 with Retry-After"])
def test_an_outage_in_a_wide_stage_loses_no_item(down: str) -> None:
    with Provider(outage(DOWN[down], 1.0)) as provider:
        endpoints = {"mine": Endpoint(model="x", api_base=provider.url)}
        settings = Settings.from_environment().model_copy(update={"endpoints": endpoints})
        with Fusion(settings=settings, model="mine") as fusion:
            result, _ = run(fusion, None, pipeline=WIDE)
    assert (result.status, sum(item.ok for item in result.items)) == ("ok", 40)


@pytest.mark.parametrize("down", ["500", "503", "529", "429"])
@pytest.mark.parametrize("where", ["stage", "role", "role of the pipeline", "defaults", "stage before role"])
def test_patience_ends_where_it_is_set(where: str, down: str) -> None:
    text = ONE
    if where.startswith("stage"):
        text = text.replace("Say it. STAGE", "Say it., patience: 0.6")
    if where == "defaults":
        text = text.replace("STAGE_DEFAULTS", "defaults: {patience: 0.6}")
    if where == "role of the pipeline":
        text = text.replace("STAGE_DEFAULTS", "roles: {bulk: {chain: [mine], patience: 0.6}}")
    patience = {"role": 0.6, "stage before role": 60.0}.get(where)
    role = RoleSpec(chain=("mine",), patience=patience)
    with Provider(DOWN[down]) as provider:
        if where == "role of the pipeline":
            text = text.replace("role: bulk", "role: own").replace("bulk: {chain", "own: {chain")
        result, seconds = asked(provider, text, role=role)
    assert result.status == "failed"
    assert seconds < 10
    assert 1 <= len(provider.requests) < 30


def test_a_timeout_of_the_stage_ends_patience() -> None:
    with Provider(DOWN["500"]) as provider:
        result, seconds = asked(provider, ONE.replace("Say it. STAGE", "Say it., timeout: 1"))
    assert result.status == "failed"
    assert seconds < 5


def test_the_seconds_of_a_budget_end_patience() -> None:
    with Provider(DOWN["500"]) as provider:
        result, seconds = asked(provider, ONE.replace("STAGE_DEFAULTS", "budget: {seconds: 1}"))
    assert result.status == "failed"
    assert seconds < 5


@pytest.mark.parametrize(
    ("answer", "requests"),
    [
        (Answer(""), 3),
        (Answer(body="no JSON"), 3),
        (Answer(drop="body"), 3),
        (Answer(finish_reason=None), 3),
        (Answer("no", status=401), 1),
        (Answer("no", status=400), 1),
        (Answer("no", status=404), 1),
    ],
)
def test_money_is_not_spent_on_an_answer_that_stays_bad(answer: Answer, requests: int) -> None:
    with Provider(answer) as provider:
        result, _ = asked(provider)
    assert result.status == "failed"
    assert len(provider.requests) == requests


def test_a_negative_patience_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match=r"patience: expected at least 0, got -1"):
        pipeline(ONE.replace("STAGE_DEFAULTS", "").replace("Say it. STAGE", "Say it., patience: -1"))
