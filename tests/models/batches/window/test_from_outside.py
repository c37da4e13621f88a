"""Batches from the command line, against an HTTP double, and processes that are killed while they wait for one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.models.batches.double import Double

PIPELINE = """\
name: notes
inputs: {notes: {}}
stages:
  read:
    kind: map
    over: inputs.notes.split(",")
    role: bulk
    concurrency: 8
    max_tokens: 100
    prompt: "Say {{ item.source }}"
output: read
"""
TABLES = """
[batches]
quiet = 0.2
poll = 0.1
slowest_poll = 0.3
"""


class Place:
    """A folder with a pipeline, settings and a store, and the double that its commands ask."""

    def __init__(self, folder: Path, double: Double, model: str) -> None:
        self.folder = folder
        self.double = double
        self.model = model
        (folder / "notes.yaml").write_text(PIPELINE)
        (folder / "own.toml").write_text(TABLES)
        self.env = {**os.environ, **double.env, "FUSION_CONFIG": str(folder / "own.toml")}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "fusion", *words]

    def fusion(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words), cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stderr
        return done

    def run(self, *more: str, count: int = 5, code: int = 0) -> subprocess.CompletedProcess[str]:
        notes = ",".join(f"note {n}" for n in range(count))
        return self.fusion("run", "notes.yaml", "-m", self.model, "-i", f"notes={notes}", *more, code=code)

    def started(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def double() -> Iterator[Double]:
    with Double() as served:
        yield served


@pytest.fixture(params=["openai/gpt-4o-mini"])
def place(request: pytest.FixtureRequest, tmp_path: Path, double: Double) -> Place:
    return Place(tmp_path, double, request.param)


def receipt(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


class TestCommands:
    def test_run_sends_calls_in_batches(self, place: Place, double: Double) -> None:
        double.set(polls=1)
        done = place.run("--batch", "--no-store")
        assert double.counts.batches == 1
        assert sum(double.counts.received.values()) == 5
        assert not double.counts.live
        assert "5 calls to openai/gpt-4o-mini in batch batch_" in done.stderr
        assert "5 of 5 answered" in done.stderr
        assert "5 (5 in batch)" in done.stderr
        assert "5 in batch saved " in done.stderr

    def test_a_run_without_it_calls_live(self, place: Place, double: Double) -> None:
        place.run("--no-store")
        assert (double.counts.batches, sum(double.counts.live.values())) == (0, 5)

    def test_the_price_is_half(self, place: Place) -> None:
        live = receipt(place.run("--json", "--no-store"))
        batched = receipt(place.run("--json", "--no-store", "--batch"))
        costs = [Decimal(one["receipt"]["lines"][0]["measured"]["cost"]["usd"]) for one in (live, batched)]
        assert costs[1] * 2 == costs[0]
        assert Decimal(batched["receipt"]["lines"][0]["batch_saved"]) == costs[1]

    def test_events_tell_of_the_batch(self, place: Place, double: Double) -> None:
        double.set(polls=2)
        done = place.run("--events", "--batch", "--no-store")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        kinds = [event["type"] for event in events if event["type"].startswith("batch_")]
        assert (kinds[0], kinds[-1], kinds.count("batch_submitted")) == ("batch_submitted", "batch_ended", 1)

    def test_a_quote_is_at_the_batch_price(self, place: Place) -> None:
        words = ("quote", "notes.yaml", "-m", place.model, "-i", "notes=a,b,c", "--json")
        live, batched = (receipt(place.fusion(*words, *more)) for more in ((), ("--batch",)))
        likely = [Decimal(one["usd"]["likely"]) for one in (live, batched)]
        assert likely[1] == pytest.approx(likely[0] / 2, rel=Decimal("0.01"))
        assert Decimal(batched["usd"]["cap"]) > Decimal(live["usd"]["cap"])
        assert any("24 hours" in note for note in batched["notes"])
        assert not any("24 hours" in note for note in live["notes"])

    def test_a_quote_without_a_batch_api_says_so(self, place: Place) -> None:
        words = ("quote", "notes.yaml", "-m", "local/small", "-i", "notes=a,b,c", "--json", "--batch")
        quote = receipt(place.fusion(*words))
        assert any("`--batch` has no effect on role 'bulk'" in note for note in quote["notes"])

    def test_a_deadline_with_batches_off_is_refused(self, place: Place) -> None:
        (place.folder / "notes.yaml").write_text(PIPELINE.replace("concurrency: 8", "deadline: 5\n    batch: off"))
        done = place.run(code=2)
        assert "has no effect with `batch: off`" in done.stderr

    @pytest.mark.parametrize("given", ["batch: never", "deadline: 0", "deadline: -1", "batch: 3", "deadline: soon"])
    def test_wrong_values_are_refused_by_line(self, place: Place, given: str) -> None:
        (place.folder / "notes.yaml").write_text(PIPELINE.replace("concurrency: 8", given))
        done = place.run(code=2)
        assert "notes.yaml:8:" in done.stderr
        assert "stages.read." in done.stderr

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ("batch: always", "note: stages.read: its calls go in batches in every run"),
            ("batch: always\n    deadline: 60", "in every run, and after 60 s live"),
            ("batch: off", "note: stages.read: its calls never go in batches"),
            ("deadline: 60", "its calls go in batches with --batch, and after 60 s live"),
            ("batch: auto", ""),
            ("concurrency: 8", ""),
        ],
    )
    def test_validate_tells_which_stages_go_their_own_way(self, place: Place, given: str, says: str) -> None:
        (place.folder / "notes.yaml").write_text(PIPELINE.replace("concurrency: 8", given))
        done = place.fusion("validate", "notes.yaml")
        assert says in done.stderr
        assert bool(says) is ("batch" in done.stderr)

    @pytest.mark.parametrize("table", ["quiet = 0", "poll = -1", "open_rows = 0", "slowest_poll = 'x'", "speed = 1"])
    def test_wrong_settings_are_refused(self, place: Place, table: str) -> None:
        (place.folder / "own.toml").write_text(f"[batches]\n{table}\n")
        assert "batches" in place.run(code=2).stderr

    def test_a_benchmark_is_measured_in_batches(self, place: Place, double: Double) -> None:
        double.set(reply="Paris")
        rows = [{"prompt": f"capital {n}?", "gold": "Paris"} for n in range(6)]
        (place.folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
        words = ("bench", "items.jsonl", "-m", place.model, "--scorer", "exact", "--batch", "-q")
        done = place.fusion(*words, "--prompt", "prompt", "--gold", "gold")
        assert (double.counts.batches, sum(double.counts.received.values()), len(double.counts.live)) == (1, 6, 0)
        assert "100.0%" in done.stdout


class TestKilled:
    def test_a_run_killed_three_times_sends_no_row_twice(self, place: Place, double: Double) -> None:
        double.set(hold=True)
        notes = ",".join(f"note {n}" for n in range(30))
        process = place.started("run", "notes.yaml", "-m", place.model, "-i", f"notes={notes}", "--batch")
        until(lambda: double.counts.batches)
        for again in range(3):
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            looks = double.counts.calls["state"]
            if again < 2:
                process = place.started("resume", "latest")
                until(lambda looks=looks: double.counts.calls["state"] > looks + 1)
        double.set(hold=False)
        result = receipt(place.fusion("resume", "latest", "--json"))
        assert result["status"] == "ok"
        assert set(double.counts.received.values()) == {1}
        assert len(double.counts.received) == 30
        assert not double.counts.live
        assert result["receipt"]["lines"][0]["batched"] == 30

    @pytest.mark.parametrize("moment", ["create", "upload"])
    def test_a_process_killed_around_the_submission_sends_no_row_twice(
        self, place: Place, double: Double, moment: str
    ) -> None:
        double.set(hold=True, forget={moment: 1})
        process = place.started("run", "notes.yaml", "-m", place.model, "-i", "notes=a,b,c", "--batch")
        until(lambda: double.counts.calls[moment])
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        double.set(hold=False)
        result = receipt(place.fusion("resume", "latest", "--json"))
        assert result["status"] == "ok"
        assert set(double.counts.worked.values()) == {1}
        assert not double.counts.live

    def test_an_interrupted_run_is_resumed(self, place: Place, double: Double) -> None:
        double.set(hold=True)
        process = place.started("run", "notes.yaml", "-m", place.model, "-i", "notes=a,b,c", "--batch")
        until(lambda: double.counts.calls["state"])
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        double.set(hold=False)
        result = receipt(place.fusion("resume", "latest", "--json"))
        assert (result["status"], set(double.counts.received.values())) == ("ok", {1})


THOUSAND = """
import sys
from fusion import Fusion, Pipeline, RunFailed

pipeline = Pipeline.from_yaml(open("notes.yaml").read(), file="notes.yaml")
with Fusion(model=sys.argv[1], store="runs.db") as fusion:
    kept = list(fusion.runs.list(limit=200)) if sys.argv[2] == "resume" else []
    if kept:
        handles = [fusion.start_resume(run.run_id) for run in kept]
    else:
        given = [",".join(f"row {n} {part}" for part in range(10)) for n in range(100)]
        handles = [fusion.start(pipeline=pipeline, inputs={"notes": one}, batch=True) for one in given]
    print("started", flush=True)
    results = [handle.wait() for handle in handles]
    print(len(results), {one.status for one in results}, sum(one.cost.usd for one in results))
"""


def test_a_thousand_rows_of_a_hundred_runs_are_killed_three_times(place: Place, double: Double) -> None:
    double.set(hold=True, fail_rows=0.05, shuffle=True)
    (place.folder / "many.py").write_text(THOUSAND)

    def started(how: str) -> subprocess.Popen[str]:
        command = [sys.executable, "many.py", place.model, how]
        return subprocess.Popen(command, cwd=place.folder, env=place.env, stdout=subprocess.PIPE, text=True)

    process = started("start")
    until(lambda: len(double.counts.received) == 1000 and double.counts.calls["state"], 60)
    for again in range(3):
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if again < 2:
            looks = double.counts.calls["state"]
            process = started("resume")
            until(lambda looks=looks: double.counts.calls["state"] > looks, 60)
    double.set(hold=False)
    process = started("resume")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "100 {'ok'}" in said
    counts = double.counts
    assert len(counts.received) == 1000
    failed = [row for row, times in counts.received.items() if times == 2]
    assert 20 < len(failed) < 80
    assert all(times == 1 for row, times in counts.received.items() if row not in failed)
    assert not counts.live
