"""panel, over HTTP: one member hangs, the others take lognormal times."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from fusion import Fusion
from fusion.models.providers.litellm import LiteLLMModel
from tests.conftest import pipeline, run
from tests.provider import Answer, Provider, Seen

MEMBERS = "abcde"
PANEL = """
inputs: {task: what}
stages:
  panel: {kind: panel, members: [a, b, c, d, e]}
output: panel
"""


class Providers:
    """What the provider does for each member: nothing to wait for until `begin`, then what the seed says."""

    def __init__(self, seed: int, median: float = 0.8) -> None:
        luck = random.Random(seed)
        self.delays = {member: median * luck.lognormvariate(0, 0.5) for member in MEMBERS}
        self.hanging = luck.choice(MEMBERS)
        self.begun = False

    def begin(self) -> None:
        self.begun = True

    @property
    def slowest(self) -> float:
        return max(seconds for member, seconds in self.delays.items() if member != self.hanging)

    def __call__(self, seen: Seen) -> Answer:
        member = seen.body["model"][-1]
        if not self.begun:
            return Answer("hello")
        return Answer(hang=True) if member == self.hanging else Answer("hello", delay=self.delays[member])


@pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_hanging_member_of_five_costs_three_tenths_more_at_most(
    fusion: Callable[..., Fusion], seed: int, record_property: Callable[[str, Any], None]
) -> None:
    script = Providers(seed)
    with Provider(script) as provider:
        one = fusion(
            {
                member: LiteLLMModel(f"openai/mock-{member}", api_base=provider.url, api_key="sk-test")
                for member in MEMBERS
            }
        )
        run(one, pipeline=pipeline(PANEL))  # litellm is loaded, connections are open
        script.begin()
        result, _ = run(one, pipeline=pipeline(PANEL))
        assert provider.wait_until(lambda provider: provider.disconnects >= 1), "the hung call is still open"
    times = result.seconds / script.slowest
    record_property("times the slowest healthy member", round(times, 3))
    assert times <= 1.3
    assert any(f"({script.hanging}): no longer waited for" in part.failure.message for part in result.failed)
    assert sum(line.charged.cost.unknown_calls for line in result.receipt.lines) == len(result.failed)
