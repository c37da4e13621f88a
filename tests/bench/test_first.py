"""The first report on thirty questions says in plain words what they can tell, as the docs print it."""

from pathlib import Path

from fusion import Fusion
from fusion.bench import run

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "pages" / "how-to" / "run-a-benchmark.md"


def test_the_first_report_says_how_many_items_would_settle_it(tmp_path: Path) -> None:
    with Fusion(profile="local") as fusion:
        report = run(ROOT / "benchmarks" / "suites" / "first.yaml", out=tmp_path / "out", fusion=fusion)
    summary = report.analysis.summary
    assert summary[0].startswith("Best single models: gemini-1.5-flash and gpt-4o-mini, level")
    assert len(summary) == 3
    assert all("30 items cannot tell; about 370 would show that it loses no more" in one for one in summary[1:])
    assert summary[1] in " ".join(PAGE.read_text(encoding="utf-8").replace("\n>", "").split())
