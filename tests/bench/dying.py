"""A benchmark that dies: its process is killed while its model has a number of answers.

Every call is written down in FOLDER/calls before it is answered.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusion import Fusion, Request
from fusion.bench import Suite, run
from tests.bench.conftest import CHEAP, STRONG, TWO_TIERS, knowing, model, sum_of


def main(folder: Path, calls: int) -> None:
    def counted(name: str, wrong: Callable[[int], bool]) -> Any:
        def script(request: Request) -> Any:
            with (folder / "calls").open("a") as file:
                file.write(f"{name} {sum_of(request)} {request.max_tokens}\n")
            if (folder / "calls").read_text().count("\n") == calls:
                os.kill(os.getpid(), signal.SIGKILL)
            return knowing(wrong)(request)

        return script

    models = {
        CHEAP: model(CHEAP, counted("cheap", lambda total: total % 10 == 8)),
        STRONG: model(STRONG, counted("strong", lambda total: total == 6), "0.01"),
    }
    suite = Suite.model_validate(
        {
            "name": "sums",
            "tasks": {"sums": {"file": "sums.jsonl"}},
            "scorer": "number",
            "on": "all",
            "resamples": 2000,
            "arms": {"a": {"model": CHEAP}, "b": {"model": STRONG}, "two": {"pipeline": "two.yaml"}},
            "baselines": [],
        }
    )
    (folder / "two.yaml").write_text(TWO_TIERS)
    with Fusion(profile="local", models=models, store=folder / "out" / "calls.db") as fusion:
        run(suite, out=folder / "out", near=folder, fusion=fusion, concurrency=2)
