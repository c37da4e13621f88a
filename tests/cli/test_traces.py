"""Traces of commands: what a collector receives, and what a dead one costs."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.perf import server
from tests.cli.conftest import BARE, apart, start
from tests.cli.conftest import environment as of_process
from tests.collector import DEAD, Collector, collecting, dead

SECONDS = 4
"""Seconds from the answer to the end of a process at most: one for the collector, and some for a busy machine."""


@pytest.fixture(scope="module")
def provider() -> Iterator[server.Provider]:
    with server.running() as running:
        yield running


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


def environment(provider: server.Provider, folder: Path, endpoint: str, **more: str) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": f"{provider.root}/v1",
        "FUSION_STORE": str(folder / "runs.db"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        **more,
    }


MODEL = ("-m", "openai/gpt-5.5")
ROWS = """
name: rows
inputs: {task: what}
stages: {answer: {kind: generate, role: bulk, prompt: "{{ inputs.task }}"}}
output: answer
"""


def test_a_collector_receives_the_spans_and_metrics_of_a_run(
    provider: server.Provider, collector: Collector, tmp_path: Path
) -> None:
    env = environment(provider, tmp_path, collector.endpoint, OTEL_RESOURCE_ATTRIBUTES="team=search")
    ran = apart("run", "single", "Say hello.", "--json", *MODEL, env=env)
    assert ran.code == 0, ran.err
    run_id = json.loads(ran.out)["run_id"]
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"invoke_agent single", "stage answer", "chat gpt-5.5"}
    assert spans["chat gpt-5.5"].parent_span_id == spans["stage answer"].span_id
    assert run_id in str(spans["invoke_agent single"])
    assert collector.resource["service.name"] == "fusion"
    assert collector.resource["team"] == "search"
    assert set(collector.points) == {
        "fusion.runs",
        "fusion.run.duration",
        "fusion.calls",
        "fusion.calls.duration",
        "fusion.cost",
        "fusion.tokens",
    }
    assert [point.as_int for point in collector.points["fusion.calls"]] == [1]


def test_runs_that_fail_and_maps_are_received(
    provider: server.Provider, collector: Collector, tmp_path: Path
) -> None:
    collector.spans.clear()
    (tmp_path / "rows.yaml").write_text(ROWS)
    (tmp_path / "rows.csv").write_text("task\none\ntwo\n")
    env = environment(provider, tmp_path, collector.endpoint)
    words = ("map", str(tmp_path / "rows.yaml"), str(tmp_path / "rows.csv"), "-o", str(tmp_path / "out.jsonl"))
    assert apart(*words, *MODEL, env=env).code == 0
    assert [span.name for span in collector.spans].count("invoke_agent rows") == 2
    collector.spans.clear()
    gone = {**env, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    (tmp_path / "short.yaml").write_text(f"budget: {{seconds: 1}}\n{BARE}")
    assert apart("run", str(tmp_path / "short.yaml"), *MODEL, env=gone).code in (3, 4)
    (run,) = [span for span in collector.spans if span.name.startswith("invoke_agent")]
    assert run.status.code == run.status.STATUS_CODE_ERROR


# Dead collectors.


def ended_after(provider: server.Provider, folder: Path, endpoint: str) -> tuple[float, int, str]:
    """Return the seconds from the answer to the end of a command, its exit code, and its standard error."""
    process = start("run", "single", "Say hello.", *MODEL, env=environment(provider, folder, endpoint))
    assert process.stdout is not None
    assert process.stdout.read()
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    return time.monotonic() - began, process.returncode, err.decode()


@pytest.mark.parametrize("fault", ["no server", "hangs"])
def test_a_dead_collector_costs_a_second_and_fails_no_run(
    fault: str, provider: server.Provider, tmp_path: Path
) -> None:
    if fault == "no server":
        seconds, code, err = ended_after(provider, tmp_path, "http://user:s3cret@127.0.0.1:9")
    else:
        with dead(DEAD[fault]) as endpoint:
            seconds, code, err = ended_after(provider, tmp_path, endpoint)
    assert (code, seconds < SECONDS) == (0, True)
    assert "not all traces reached http://127.0.0.1:" in err
    assert "s3cret" not in err
    assert "Traceback" not in err


# Without traces.

SCRIPT = """
import json, sys
from fusion.cli.app import run_command
code = run_command(sys.argv[1:])
print(json.dumps([code, sorted(name for name in sys.modules if name.startswith("opentelemetry"))]))
"""


def test_nothing_is_loaded_unless_runs_are_traced(provider: server.Provider, tmp_path: Path) -> None:
    env = of_process(**environment(provider, tmp_path, "", OTEL_SERVICE_NAME="mine"))
    command = [sys.executable, "-c", SCRIPT, "run", "single", "Say hello.", *MODEL]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]
