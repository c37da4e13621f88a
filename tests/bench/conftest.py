"""What the tests of benchmarks share: items, models that know some of the answers, and suites of them."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Price, Request, Say, ScriptedModel, Usage
from fusion.bench import Report, Suite, run
from fusion.bench.report import report
from fusion.bench.report.figures import Analysis
from fusion.bench.report.plot.figure import figure
from tests.conftest import said

CHEAP, STRONG = "scripted/cheap", "scripted/strong"
TWO_TIERS = """
inputs: {question: A question.}
roles: {bulk: {chain: [scripted/cheap]}, frontier: {chain: [scripted/strong]}}
stages:
  answer:
    kind: cascade
    prompt: generate/pass-through
    max_tokens: 100
    tiers: [bulk, frontier]
    accept: {checks: {expression: "'unsure' not in value"}}
output: answer
"""


@pytest.fixture(autouse=True, scope="package")
def undrawn() -> Iterator[None]:
    """The figures of reports are empty, unless a test is `drawn`: three quarters of a small benchmark is drawing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "figure", _empty)
        yield


def _empty(analysis: Analysis, *, title: str) -> bytes | None:
    costs = [one.cost for one in (*analysis.figures, *analysis.baselines)]
    return b"\x89PNG" if any(costs) else None


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have their figures."""
    monkeypatch.setattr(report, "figure", figure)


def sum_of(request: Request) -> int:
    """What `What is 3+4?` asks for."""
    left, _, right = said(request).partition("What is ")[2].partition("?")[0].partition("+")
    return int(left) + int(right)


def knowing(wrong: Callable[[int], bool], text: str = "unsure") -> Callable[[Request], Any]:
    """Knows every sum that is not `wrong`. Each answer is measured at 1,000 tokens in and 100 out."""

    def script(request: Request) -> Any:
        total = sum_of(request)
        usage = Usage(input=1000, output=100)
        return Say(f"The answer is {text}" if wrong(total) else f"The answer is {total}", usage=usage)

    return script


def model(name: str, script: Any, dollars: str = "0.001", **more: Any) -> ScriptedModel:
    """A model whose every answer, as `knowing` has it, costs so much."""
    price = Price(input=Decimal(dollars) / 2000, output=Decimal(dollars) / 200)
    return ScriptedModel(script, name=name, price=price, **more)


@pytest.fixture
def items(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of sums, each with an answer that is found nowhere else."""

    def write(count: int = 20, name: str = "sums.jsonl", **more: Any) -> Path:
        return write_sums(tmp_path / name, count, **more)

    return write


def write_sums(path: Path, count: int, **more: Any) -> Path:
    rows = [{"id": f"q{n}", "prompt": f"What is {n}+{n}?", "gold": str(2 * n), **more} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Report]]:
    """Runs a suite on scripted models; `arms` and what else a suite may say are given by name."""
    (tmp_path / "two.yaml").write_text(TWO_TIERS)
    made: list[Fusion] = []

    def start(
        models: list[ScriptedModel],
        *,
        out: str = "out",
        store: bool = False,
        options: dict[str, Any] | None = None,
        **suite: Any,
    ) -> Report:
        given = {"name": "sums", "tasks": {"sums": {"file": "sums.jsonl"}}, "scorer": "number", "on": "all", **suite}
        place = tmp_path / out / "calls.db" if store else None
        made.append(Fusion(profile="local", models={one.info.id: one for one in models}, store=place))
        read = Suite.model_validate({"resamples": 2000, **given})
        return run(read, out=tmp_path / out, near=tmp_path, fusion=made[-1], **(options or {}))

    yield start
    for one in made:
        one.close()
