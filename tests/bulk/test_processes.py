"""A map goes on in another process: its rows are the same there, whatever model runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.provider import Provider

PIPELINE = """
name: one
inputs: {text: A row.}
stages:
  answer: {kind: generate, role: any, prompt: "{{ inputs.text }}", max_tokens: 50}
output: answer
"""
CODE = """
import sys
from fusion import Fusion
with Fusion(model=sys.argv[1], store="runs.db") as fusion:
    report = fusion.start_map("rows.jsonl", pipeline="one.yaml", output="out.jsonl").wait()
print(report.model_dump_json())
"""
KEYS = {"openai": "OPENAI", "anthropic": "ANTHROPIC", "groq": "GROQ"}


@pytest.mark.parametrize("model", ["openai/o4-mini", "anthropic/claude-haiku-4-5", "groq/llama-3.3-70b-versatile"])
def test_rows_that_are_done_stay_done_in_other_processes(tmp_path: Path, model: str) -> None:
    (tmp_path / "one.yaml").write_text(PIPELINE)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    with Provider() as provider:
        name = KEYS[model.partition("/")[0]]
        base = provider.url.removesuffix("/v1") if name == "ANTHROPIC" else provider.url
        env = {**os.environ, f"{name}_API_KEY": "sk-test", f"{name}_BASE_URL": base, f"{name}_API_BASE": base}
        reports = [_report(tmp_path, model, {**env, "PYTHONHASHSEED": seed}) for seed in ("1", "2")]
        asked = len(provider.requests)
    assert asked == 2
    assert [report["kept"] for report in reports] == [0, 2]
    assert [report["notes"] for report in reports] == [[], []]


def _report(folder: Path, model: str, env: dict[str, str]) -> dict[str, object]:
    command = [sys.executable, "-c", CODE, model]
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, cwd=folder, env=env | path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, object] = json.loads(ended.stdout)
    return found
