"""A map in batches: all rows at half the price, none sent twice, whatever kills it."""

import json
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest

from fusion import Fusion, Settings
from tests.models.batches.double import DoubleProcess
from tests.models.batches.double.replies import USAGE

PIPELINE = """
name: halves
inputs: {text: A row.}
roles: {any: {chain: [openai/gpt-4o-mini]}}
stages:
  answer: {kind: generate, role: any, prompt: "{{ inputs.text }}", max_tokens: 50}
output: answer
"""
QUICK = """
[batches]
quiet = 0.3
poll = 0.1
slowest_poll = 0.3
[prices]
"openai/gpt-4o-mini" = {input = 1, output = 2}
"""
HALF = (Decimal(USAGE[0]) * 1 + Decimal(USAGE[1]) * 2) / 1_000_000 / 2


def _folder(folder: Path, rows: int) -> None:
    (folder / "p.yaml").write_text(PIPELINE)
    (folder / "fusion.toml").write_text(QUICK)
    lines = (json.dumps({"id": f"T{number}", "text": f"row number {number}"}) for number in range(rows))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


def run_map(folder: str) -> None:
    """Map the rows of a folder in batches, to the end."""
    place = Path(folder)
    settings = Settings.from_environment(config=place / "fusion.toml")
    with Fusion(settings=settings, store=place / "runs.db") as fusion:
        report = fusion.start_map(
            str(place / "rows.jsonl"),
            pipeline=place / "p.yaml",
            id="m",
            key="id",
            output=place / "out.csv",
            batch=True,
        ).wait()
    (place / "report.json").write_text(report.model_dump_json())
    raise SystemExit(report.exit_code)


def _started(folder: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    code = f"from tests.bulk.test_batches import run_map; run_map({str(folder)!r})"
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **env}, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("rows", [1000])
def test_a_thousand_rows_killed_three_times_are_paid_once_at_half_the_price(tmp_path: Path, rows: int) -> None:
    _folder(tmp_path, rows)
    with DoubleProcess(seconds=1.0, fail_rows=0.05, shuffle=True) as double:
        for kill in range(3):
            process = _started(tmp_path, double.env)
            _until_sent(double, process, at_least=1 + kill * rows // 4)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert _started(tmp_path, double.env).wait(120) == 0
        counts = double.counts
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert sorted(line.partition(",")[0] for line in lines[1:]) == sorted(f"T{number}" for number in range(rows))
    again = {said: count for said, count in counts.received.items() if count > 1}
    assert len(again) <= rows * 0.1, "rows that failed in a batch alone go into a second one"
    assert max(counts.received.values()) <= 2
    assert counts.bodies.total() <= rows + len(again)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["ok"], report["failed"], report["exit_code"], report["notes"]) == (rows, 0, 0, [])
    assert Decimal(report["cost"]["usd"]) == rows * HALF


def _until_sent(double: DoubleProcess, process: subprocess.Popen[bytes], *, at_least: int) -> None:
    """Wait until the provider has received so many rows, or the process is over."""
    until = time.monotonic() + 60
    while double.counts.received.total() < at_least and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
