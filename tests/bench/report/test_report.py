"""What a report says of results that can be worked by hand, and that nothing in them reaches out of it."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fusion.bench.report.analysis import analyse
from fusion.bench.report.report import Report
from fusion.bench.report.results import ArmRecord, ItemRecord, Outcome, Results
from fusion.core.errors import UsageError
from fusion.core.types import Failure, Usage

HOSTILE = (
    "</pre><script>alert(1)</script><img src=https://evil.example/x onerror=alert(1)> | `x` *y* [z](https://evil)"
)


def results(n: int = 100, *, clusters: int | None = None, **more: Any) -> Results:
    """Two models and a pipeline: strong right on 9 of 10 for 4 cents, cheap on 7 for 1, the pipeline on 9 for 2."""
    items = [
        ItemRecord(id=f"i{k}", task_set="a" if k % 2 else "b", cluster=f"d{k % clusters}" if clusters else None)
        for k in range(n)
    ]
    outcomes = []
    for k in range(n):
        right = {"cheap": k % 10 < 7, "strong": k % 10 != 3, "mine": k % 10 != 9}
        for arm, cents in (("cheap", 1), ("strong", 4), ("mine", 2)):
            outcomes.append(
                Outcome(
                    arm=arm,
                    item=f"i{k}",
                    score=float(right[arm]),
                    answer="42",
                    text=HOSTILE,
                    cost=Decimal(cents) / 100,
                    usage=Usage(input=10, output=5),
                    calls=1,
                    latency=1 + k / n,
                    escalated=k % 4 == 0 if arm == "mine" else None,
                )
            )
    kinds = {"cheap": "model", "strong": "model", "mine": "pipeline"}
    given: dict[str, Any] = {
        "name": f"suite {HOSTILE}",
        "started": datetime(2026, 11, 24, tzinfo=UTC),
        "command": f"fusion bench x.yaml --gate '{HOSTILE}'",
        "versions": {"fusion": "0.1.0"},
        "hashes": {"a": "ab" * 32},
        "items": items,
        "arms": [ArmRecord(name=name, kind=kind, price_source="price map") for name, kind in kinds.items()],
        "outcomes": outcomes,
        "resamples": 2000,
    }
    return Results(**{**given, **more})


def without(found: Results, arm: str, items: set[str], **instead: Any) -> Results:
    """The same with some outcomes of an arm left out, or failed."""
    kept = [one for one in found.outcomes if one.arm != arm or one.item not in items]
    failed = [Outcome(arm=arm, item=item, **instead) for item in sorted(items)] if instead else []
    return found.model_copy(update={"outcomes": (*kept, *failed)})


# What is worked out.


def test_every_arm_is_held_against_the_best_single_model() -> None:
    analysis = analyse(results())
    assert analysis.best_single == "strong"
    figures = {one.arm: one for one in analysis.figures}
    assert figures["mine"].accuracy.estimate == 0.9
    assert figures["mine"].cost == pytest.approx(2.0)
    assert figures["mine"].escalated == 0.25
    assert figures["cheap"].by_set == {"b": pytest.approx(0.8), "a": pytest.approx(0.6)}
    pairs = {one.arm: one for one in analysis.pairings}
    assert pairs["mine"].difference.estimate == pytest.approx(0)
    assert (pairs["mine"].only_arm, pairs["mine"].only_other, pairs["mine"].p) == (10, 10, 1.0)
    assert pairs["mine"].cost_ratio is not None
    assert pairs["mine"].cost_ratio.estimate == pytest.approx(0.5)
    assert pairs["mine"].equal_quality_cost == pytest.approx(4.0)
    assert pairs["mine"].verdict == "inconclusive"
    assert pairs["cheap"].verdict == "worse"
    assert pairs["cheap"].adjusted == pytest.approx(2 * pairs["cheap"].p)
    assert len(analysis.disagreements) == 40


def test_the_baselines_are_there_without_being_asked_for() -> None:
    ceiling, mixing = analyse(results()).baselines
    assert (ceiling.arm, ceiling.accuracy.estimate, ceiling.cost) == ("oracle router", 1.0, pytest.approx(1.9))
    assert mixing.arm == "random mixing at the cost of mine (33% to strong, else cheap)"
    assert mixing.accuracy.estimate == pytest.approx(2 / 3 * 0.7 + 1 / 3 * 0.9)
    assert mixing.cost == pytest.approx(2.0)


def test_where_the_best_single_is_the_cheapest_too_nothing_is_mixed() -> None:
    dear = [
        one.model_copy(update={"cost": Decimal("0.50")}) if one.arm == "cheap" else one for one in results().outcomes
    ]
    found = analyse(results(outcomes=dear))
    assert [one.arm for one in found.baselines] == ["oracle router"]
    assert any(note.startswith("Random mixing is not computed") for note in found.notes)
    assert not any(note.startswith("Random mixing") for note in analyse(results()).notes)


def test_what_failed_is_wrong_and_costs_and_stays_in_the_denominator() -> None:
    gone = {f"i{k}" for k in range(0, 100, 10)}
    failure = Failure(reason="ModelTimeoutError", message="no answer in 60 s")
    failed = analyse(without(results(), "mine", gone, failure=failure, cost=Decimal("0.02")))
    missing = analyse(without(results(), "mine", gone))
    for found in (failed, missing):
        mine = found.figures[2]
        assert (mine.n, mine.failed, mine.accuracy.estimate) == (100, 10, pytest.approx(0.8))
        assert "mine failed on 10 of 100: each counts as wrong." in found.notes
    assert failed.figures[2].cost == pytest.approx(2.0)
    with pytest.raises(ValidationError, match="an outcome with a failure is worth 0"):
        Outcome(arm="mine", item="i1", score=1, failure=failure)


def test_an_unknown_cost_is_no_zero_and_passes_no_gate() -> None:
    found = without(results(gate="cost <= best_single"), "mine", {"i1"}, score=1)
    report = Report(found)
    assert report.analysis.figures[2].cost is None
    assert report.analysis.pairings[1].cost_ratio is None
    assert not report.passed
    assert "| mine | pipeline | 90.0% | 82.6 to 94.5 | unknown |" in report.markdown()
    assert "The cost of mine is not known: 1 of its outcomes lack it." in report.analysis.notes


def test_items_of_one_document_are_clustered() -> None:
    alone, clustered = analyse(results()), analyse(results(clusters=10))
    assert alone.pairings[1].test == "exact McNemar"
    assert clustered.pairings[1].test == "sign flips"
    wide, narrow = (found.pairings[0].difference for found in (clustered, alone))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_an_arm_that_knows_dev_by_heart_is_flagged_and_no_other() -> None:
    found = results()
    items = tuple(item.model_copy(update={"side": "dev" if k < 50 else "test"}) for k, item in enumerate(found.items))
    known = {item.id for item in items if item.side == "dev"}
    cheat = tuple(
        one.model_copy(update={"score": float(one.item in known or int(one.item[1:]) % 2)})
        if one.arm == "mine"
        else one
        for one in found.outcomes
    )
    honest = found.model_copy(update={"items": items})
    assert [gap.flagged for gap in analyse(honest).gaps] == [False, False, False]
    cheated = honest.model_copy(update={"outcomes": cheat})
    assert {gap.arm: gap.flagged for gap in analyse(cheated).gaps} == {"cheap": False, "strong": False, "mine": True}
    assert "better on the items it was chosen on" in Report(cheated).markdown()
    assert analyse(found).gaps == ()


def test_without_a_single_model_nothing_is_claimed() -> None:
    found = results(arms=[ArmRecord(name=name, kind="outputs") for name in ("cheap", "strong", "mine")])
    analysis = analyse(found)
    assert (analysis.best_single, analysis.pairings, analysis.baselines) == (None, (), ())
    assert any("No single model was measured" in note for note in analysis.notes)
    Report(found).markdown()


def test_a_gate_is_the_word_on_every_arm_that_is_no_single_model() -> None:
    met = Report(results(gate="accuracy >= best_single - 0.5pp and cost <= 0.5*best_single"))
    assert [(one.arm, one.passed) for one in met.judgements] == [("mine", True)]
    assert not Report(results(gate="cost < 0.5*best_single")).passed
    assert Report(results()).passed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"items": [ItemRecord(id="i0", task_set="a")] * 2, "outcomes": []}, "duplicate item"),
        ({"arms": [ArmRecord(name="a", kind="model")] * 2, "outcomes": []}, "duplicate arm"),
        ({"outcomes": [Outcome(arm="mine", item="i0")] * 2}, "duplicate outcome"),
        ({"outcomes": [Outcome(arm="mine", item="x")]}, "the item 'x', which are not both listed"),
        ({"items": []}, "at least 1 item"),
    ],
)
def test_results_that_do_not_hang_together_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        results(**change)


# What is written.


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_holds_no_script_and_reaches_nothing() -> None:
    page = Report(results(notes=(HOSTILE,))).page()
    parser = _Tags()
    parser.feed(page)
    names = {tag for tag, _ in parser.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "base", "form", "svg", "a"}
    for tag, attributes in parser.tags:
        assert not any(name.startswith("on") or name in ("href", "style", "srcset") for name in attributes), tag
        assert (attributes.get("src") or "data:image/png").startswith("data:image/png")
    policy = next(a["content"] for tag, a in parser.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    style = r"style-src 'sha256-[\w+/=]{44}'"
    assert re.fullmatch(
        rf"default-src 'none'; img-src data:; {style}; base-uri 'none'; form-action 'none'",
        policy,
    )
    assert "&lt;script&gt;alert(1)" in page


def test_markdown_shows_what_a_model_wrote_as_text() -> None:
    text = Report(results(notes=(HOSTILE,))).markdown()
    shown = re.sub(r"(?m)^    .*$|`[^`\n]*`", "", text)  # blocks and spans of code are shown as they are
    assert "<script" not in shown
    assert "<img" not in shown
    assert "[z](" not in shown
    assert f"\n    fusion bench x.yaml --gate '{HOSTILE}'\n" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({row.replace("\\|", "").count("|") for row in rows[:7]}) == 1


def test_all_files_are_written_and_the_results_read_again(drawn: None, tmp_path: Path) -> None:
    found = results(stopped="the budget of $3 is used up")
    files = Report(found).write(tmp_path / "new")
    assert {file.name for file in files} == {"report.md", "report.html", "report.png", "items.jsonl", "results.json"}
    assert (tmp_path / "new" / "report.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert Results.load(tmp_path / "new" / "results.json") == found
    lines = [json.loads(line) for line in (tmp_path / "new" / "items.jsonl").read_text().splitlines()]
    assert len(lines) == 300
    assert {"arm", "item", "score", "served", "seed", "cost", "prompt", "failure"} <= lines[0].keys()
    assert "Stopped early: the budget of $3 is used up" in (tmp_path / "new" / "report.md").read_text()


def test_a_prompt_stands_in_the_results_once_and_in_every_line_of_items(tmp_path: Path) -> None:
    given = results()
    items = tuple(item.model_copy(update={"prompt": f"the prompt of {item.id}."}) for item in given.items)
    found = given.model_copy(update={"items": items})
    Report(found).write(tmp_path)
    whole = (tmp_path / "results.json").read_text()
    assert [whole.count(item.prompt) for item in items] == [1] * len(items)
    assert Results.load(tmp_path / "results.json") == found
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert {line["item"]: line["prompt"] for line in lines} == {item.id: item.prompt for item in items}
    assert all(line["prompt"] == f"the prompt of {line['item']}." for line in lines)
    assert f"<pre>the prompt of {items[3].id}.</pre>" in (tmp_path / "report.html").read_text()  # where arms disagree


def test_results_with_a_prompt_in_every_outcome_are_read_too(tmp_path: Path) -> None:
    found = results()
    items = tuple(item.model_copy(update={"prompt": f"of {item.id}"}) for item in found.items)
    data = found.model_dump(mode="json")
    for item in data["items"]:
        del item["prompt"]
    for one in data["outcomes"]:
        one["prompt"] = f"of {one['item']}"
    (tmp_path / "old.json").write_text(json.dumps(data))
    assert Results.load(tmp_path / "old.json") == found.model_copy(update={"items": items})


def test_the_same_results_give_the_same_report_to_the_byte() -> None:
    first, again = Report(results()), Report(results())
    assert first.markdown() == again.markdown()
    assert first.page() == again.page()


def test_a_file_without_results_is_told(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"name": "x"}')
    with pytest.raises(UsageError, match="holds no results: started: Field required"):
        Results.load(tmp_path / "r.json")
    (tmp_path / "r.json").write_text('{"name": ')
    with pytest.raises(UsageError, match="holds no results: invalid JSON"):
        Results.load(tmp_path / "r.json")
