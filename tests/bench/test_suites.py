"""The suites that ship: the small one runs, all can be read, and the README says what stands in their results."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.recorded.headline import BEGIN, END, PAGE, README, RESULTS, headline, load, report, summary
from benchmarks.recorded.headline import SUITES as RECORDED
from fusion import Fusion, Pipeline
from fusion.bench import Suite, run
from fusion.bench.tuner.candidates import candidates, read_document
from fusion.prompts.library import Library

SUITES = Path(__file__).parents[2] / "benchmarks" / "suites"


def suites() -> Iterator[Path]:
    for path in sorted(SUITES.rglob("*.yaml")):
        if "\ntasks:" in path.read_text():
            yield path


def test_the_smoke_suite_runs_and_meets_its_gate(tmp_path: Path) -> None:
    with Fusion(profile="local") as fusion:
        report = run(SUITES / "smoke.yaml", out=tmp_path / "out", fusion=fusion)
    assert len(report.results.items) == 120
    assert report.passed
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize("path", list(suites()), ids=lambda path: str(path.relative_to(SUITES)))
def test_every_suite_and_its_pipelines_can_be_read(path: Path, tmp_path: Path) -> None:
    if path.name == "tune.yaml":
        suite = candidates(read_document(path), path.parent, tmp_path, Library.standard(near=path.parent)).suite
    else:
        suite = Suite.load(path)
    for arm in suite.arms.values():
        beside = path.parent / (arm.pipeline or "")
        if arm.pipeline is not None and beside.is_file():
            Pipeline.load(beside)


def test_the_headlines_are_those_of_the_results() -> None:
    data = [load(name) for name in RECORDED]
    for path, made in ((README, summary(*data)), (PAGE, headline(*data))):
        text = path.read_text(encoding="utf-8")
        assert text.count(BEGIN) == text.count(END) == 1
        assert text.partition(BEGIN)[2].partition(END)[0] == made
    for name, one in zip(RECORDED, data, strict=True):
        assert (RESULTS / f"{name}.md").read_text(encoding="utf-8") == report(one)


def test_the_headline_says_what_it_is_of() -> None:
    said = " ".join(headline(*map(load, RECORDED)).split())
    for words in ("`fusion tune`", "models are of 2024", "as remembered", "moved by half", "gpt-4o-2024-08-06"):
        assert words in said
    assert said.count("out of fold, seed") == 10
