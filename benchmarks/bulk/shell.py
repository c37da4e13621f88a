"""A map of many rows against the same rows started one by one from a shell: CPU of all processes.

    python -m benchmarks.bulk.shell [--rows 300]

Each row makes one call over HTTP to a provider on loopback. Both ways keep their runs in a store of their own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.perf.figures import machine
from benchmarks.resume.killed import Setting

_PIPELINE = """
name: one
inputs: {text: A row.}
roles: {any: {chain: [mock]}}
stages:
  answer: {kind: generate, role: any, prompt: "WORK {{ inputs.text }}"}
output: answer
"""


def cpu_of(commands: list[list[str]], setting: Setting, folder: Path) -> float:
    """Run commands one after the other; return the CPU seconds of their processes."""
    env = {**os.environ, "FUSION_CONFIG": str(folder / "fusion.toml"), "FUSION_STORE": str(setting.store)}
    before = _children()
    for command in commands:
        ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr[-500:]}")
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(rows: int, folder: Path, *, mapped: bool) -> float:
    """Return the CPU seconds of all rows, by one map or by one run each."""
    folder.mkdir()
    setting = Setting(folder, _PIPELINE)
    fusion = [sys.executable, "-m", "fusion"]
    texts = [f"row-{number:012x}" for number in range(rows)]
    try:
        if not mapped:
            return cpu_of([[*fusion, "run", "pipeline.yaml", "-q", text] for text in texts], setting, folder)
        table = folder / "rows.jsonl"
        table.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        spent = cpu_of([[*fusion, "map", "pipeline.yaml", str(table), "-o", "out.jsonl", "-q"]], setting, folder)
        if len((folder / "out.jsonl").read_text().splitlines()) != rows:
            raise SystemExit("rows are missing in the output")
        return spent
    finally:
        setting.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300)
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        together = measured(given.rows, Path(folder) / "map", mapped=True)
        apart = measured(given.rows, Path(folder) / "shell", mapped=False)
    print(f"{given.rows:,} rows: one map {together:.2f} s of CPU, one by one {apart:.1f} s")
    print(f"ratio: {apart / together:.1f}")
    print(machine())


if __name__ == "__main__":
    main()
