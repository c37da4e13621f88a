"""Times of calls and runs: each wait by its cause, and a latency from the request sent to the answer."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fusion import Fusion, Model, ModelInfo, Reply, Say, ScriptedModel
from fusion.core.errors import BadRequestError, ModelConnectionError, RateLimitError
from fusion.core.events import CallFailed, CallFinished, EventBase
from fusion.core.types import Deltas, Request, Usage, Waited
from fusion.models.base import Price
from tests.conftest import pipeline, run

Make = Callable[..., Fusion]

LONG = 0.06
"""Seconds of a wait that is made."""
ONE = "inputs: {t: What.}\nstages:\n  a: {kind: generate, role: bulk, prompt: '{{ inputs.t }}'}\noutput: a"
WIDE = ONE.replace("generate", "map, over: 'range(3) | list'").replace("inputs.t", "item.source")
ONE_AT_A_TIME = f"{WIDE}\nroles: {{bulk: {{chain: [scripted/model], concurrency: 1}}}}"


class Slow(Model):
    """A model of a user that loads something first, and states no latency."""

    info = ModelInfo(id="own/slow", provider="own", price=Price(input=0, output=0))

    def __init__(self, *, loading: float = 0.0, thinking: float = 0.0, latency: float = 0.0) -> None:
        self._loading, self._thinking, self._latency = loading, thinking, latency

    async def ready(self) -> None:
        seconds, self._loading = self._loading, 0.0
        await asyncio.sleep(seconds)

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        await asyncio.sleep(self._thinking)
        return Reply(
            text="yes", finish_reason="stop", usage=Usage(), asked="own/slow", served="it", latency=self._latency
        )


def slowly(*failures: Exception, seconds: float = 0.0) -> ScriptedModel:
    """A model that takes so long for each of these failures, and answers then."""
    return ScriptedModel([*(Say(delay=seconds, error=error) for error in failures), "yes"])


def waits(events: list[EventBase], cause: str) -> list[float]:
    found = [event for event in events if isinstance(event, (CallFinished, CallFailed))]
    return sorted(getattr(event.waited or Waited(), cause) for event in found)


CAUSES: Mapping[str, tuple[str, Callable[[], Any], str, dict[str, Any]]] = {
    "a library": ("library", lambda: Slow(loading=LONG), ONE, {}),
    "the one slot of a role": ("slot", lambda: ScriptedModel("yes", delay=LONG), ONE_AT_A_TIME, {}),
    "a rate limit": ("pause", lambda: slowly(RateLimitError("slow down", retry_after=LONG)), ONE, {}),
    "two rate limits": ("pause", lambda: slowly(*[RateLimitError("slow", retry_after=LONG)] * 2), ONE, {}),
    "a budget of one call": ("budget", lambda: ScriptedModel("yes", delay=LONG), WIDE, {"budget": {"tokens": 3000}}),
    "a failed attempt": ("failed", lambda: slowly(ModelConnectionError("gone"), seconds=LONG), ONE, {}),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_wait_is_counted_by_its_cause_and_in_no_latency(without_pauses: None, name: str) -> None:
    cause, made, shape, options = CAUSES[name]
    model = made()
    with Fusion(
        profile="local", models={model.info.id: model}, roles={} if shape is ONE_AT_A_TIME else {"bulk": model}
    ) as fusion:
        result, events = run(fusion, "x", pipeline=pipeline(shape), **options)
    assert result.status == "ok", result.error
    assert waits(events, cause)[-1] >= 0.8 * LONG
    others = set(Waited.model_fields) - {cause}
    assert all(seconds < LONG / 2 for other in others for seconds in waits(events, other))
    assert all(event.latency < 1.8 * LONG for event in events if isinstance(event, CallFinished))


def test_a_call_that_does_not_wait_has_no_waits(fusion: Make) -> None:
    _, events = run(fusion({"bulk": ScriptedModel("yes")}), "x", pipeline=pipeline(ONE))
    assert [event.waited for event in events if isinstance(event, CallFinished)] == [None]


def test_a_call_that_fails_says_what_it_waited_for(fusion: Make, without_pauses: None) -> None:
    model = slowly(*[RateLimitError("slow down", retry_after=LONG)] * 2, BadRequestError("no"), seconds=LONG)
    _, events = run(fusion({"bulk": model}), "x", pipeline=pipeline(ONE))
    (failed,) = (event for event in events if isinstance(event, CallFailed))
    assert failed.waited is not None
    assert failed.waited.pause >= 1.6 * LONG
    assert failed.waited.failed >= 2.4 * LONG


@pytest.mark.parametrize(("stated", "least", "most"), [(0.0, 0.8 * LONG, 9), (0.005, 0.005, 0.005)])
def test_a_model_of_a_user_gets_the_latency_that_it_does_not_state(
    fusion: Make, stated: float, least: float, most: float
) -> None:
    _, events = run(fusion({"bulk": Slow(thinking=LONG, latency=stated)}), "x", pipeline=pipeline(ONE))
    (finished,) = (event for event in events if isinstance(event, CallFinished))
    assert least <= finished.latency <= most
