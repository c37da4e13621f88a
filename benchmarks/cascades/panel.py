"""The wall time of a panel of five over HTTP with one hung member; the others take lognormal times.

python -m benchmarks.cascades.panel [--runs 20] [--median 2.0]
"""

import argparse
import warnings

from benchmarks.perf.figures import machine, spread
from fusion import Fusion, Pipeline
from fusion.models.providers.litellm import LiteLLMModel
from tests.provider import Provider
from tests.stages.kinds.test_panel_waits import MEMBERS, PANEL, Providers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascades.panel", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--median", type=float, default=2.0, help="seconds that half of the answers take at most")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="Items? .*ReadOnly")  # litellm's own types, said by pydantic
    print(machine())
    runs = [measured(seed, given.median) for seed in range(given.runs)]
    times, cancelled, dropped = zip(*runs, strict=True)
    print(f"wall, times the slowest healthy member: {spread(times)}; over 1.3: {sum(one > 1.3 for one in times)}")
    print(f"runs in which a healthy member was no longer waited for: {sum(map(bool, dropped))}")
    print(f"hung calls cancelled at the server: {sum(cancelled)} of {given.runs}")
    print(machine())


def measured(seed: int, median: float) -> tuple[float, bool, int]:
    """Return wall time over the slowest healthy member's, the cancellation of the hung call, and members lost."""
    script, pipeline = Providers(seed, median), Pipeline.from_yaml(PANEL)
    with Provider(script) as provider:
        models = {
            member: LiteLLMModel(f"openai/mock-{member}", api_base=provider.url, api_key="sk-test")
            for member in MEMBERS
        }
        with Fusion(profile="local", roles=dict(models)) as fusion:
            fusion.complete("x", pipeline=pipeline)  # litellm is loaded, connections are open
            script.begin()
            result = fusion.complete("x", pipeline=pipeline)
            left = provider.wait_until(lambda provider: provider.disconnects >= 1)
    return result.seconds / script.slowest, left, len(result.failed) - 1


if __name__ == "__main__":
    main()
