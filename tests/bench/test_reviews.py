"""Reviews in a benchmark: wrong results caught, right ones refused, the cost, and the arm without its review."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Request, Say, Usage
from fusion.bench import Report, Results
from fusion.bench.report.figures import ReviewFigures
from fusion.core.errors import ContentFilterError, PipelineError
from tests.bench.conftest import CHEAP, STRONG, model
from tests.conftest import said

Bench = Callable[..., Report]

ROLES = "roles: {bulk: {chain: [scripted/cheap]}, frontier: {chain: [scripted/strong]}}\n"
LINES = (
    "inputs: {lines: The sums.}\n"
    + ROLES
    + """
stages:
  read: {kind: map, over: inputs.lines.splitlines(), role: bulk, prompt: "Work: {{ item.source }}"}
  check:
    kind: review
    over: read
    role: frontier
    prompt: "Review: {{ item.source }} -> {{ item.value }}"
    revise_prompt: "Revise: {{ item.source }}"
    OPTIONS
output: check | selectattr("ok") | map(attribute="value") | join(" ")
"""
)
BATCH = """batch_prompt: >
  {% for item in items %}Review {{ loop.index }}: {{ item.source }} -> {{ item.value }}; {% endfor %}"""
SUM = re.compile(r"(\d+)\+(\d+)(?: -> (-?\d+))?")


def sums(text: str) -> list[tuple[int, int | None]]:
    """The right value of each sum in a text, and the value that is judged."""
    return [(int(one[1]) + int(one[2]), None if one[3] is None else int(one[3])) for one in SUM.finditer(text)]


def spoken(text: Any) -> Say:
    words = text if isinstance(text, str) else json.dumps(text)
    return Say(words, usage=Usage(input=1000, output=100))


def worker(wrong: Callable[[int], bool], revised: Callable[[int], int] = lambda right: right) -> Any:
    """Is off by one in the `wrong` sums; a revision gives `revised`."""

    def script(request: Request) -> Any:
        words = said(request)
        values = [right for right, _ in sums(words)]
        if words.startswith("Revise"):
            return spoken(str(revised(values[0])))
        return spoken(" ".join(str(one + 1 if wrong(one) else one) for one in values))

    return script


def verdict(word: str) -> dict[str, Any]:
    return {"issues": [] if word == "accept" else [{"quote": "", "problem": "off by one"}], "verdict": word}


def reviewer(judge: Callable[[int, int], str | Exception | None]) -> Any:
    """Gives the verdict that `judge` has for a right value and the one that was worked; answers sums otherwise."""

    def script(request: Request) -> Any:
        words = said(request)
        pairs = [(right, value) for right, value in sums(words) if value is not None]
        if not pairs:
            return spoken(" ".join(str(right) for right, _ in sums(words)))
        said_of = [judge(*pair) for pair in pairs]
        if isinstance(said_of[0], Exception):
            return said_of[0]
        if said_of[0] is None:
            return spoken("I cannot say.")
        if "Review 1" in words:
            numbered = [{"number": at, **verdict(str(one))} for at, one in enumerate(said_of, start=1)]
            return spoken({"verdicts": numbered})
        return spoken(verdict(str(said_of[0])))

    return script


def catches(word: str) -> Callable[[int, int], str]:
    """Accepts what is right, and says `word` of the rest."""
    return lambda right, value: "accept" if right == value else word


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., None]:
    """Writes `lines.yaml` with these options of its review, and 8 items of 3 sums each."""

    def write(options: str = "revisions: 0", *, name: str = "lines.yaml", count: int = 8, **columns: Any) -> None:
        options = f"{options}\n{BATCH}" if "batch" in options else options
        (tmp_path / name).write_text(LINES.replace("OPTIONS", options.replace("\n", "\n    ")))
        rows = []
        for at in range(count):
            values = [10 * at + n for n in range(3)]
            row = {
                "id": f"q{at}",
                "prompt": "\n".join(f"{value}+{value}" for value in values),
                "gold": " ".join(str(2 * value) for value in values),
                "parts": [str(2 * value) for value in values],
            }
            rows.append({**row, **{key: make(row) for key, make in columns.items()}})
        (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


ITEMS: dict[str, Any] = {"file": "lines.jsonl", "item_gold": "parts", "item_scorer": "number"}


def measured(bench: Bench, work: Any, review: Any, **suite: Any) -> Report:
    given = {
        "tasks": {"lines": ITEMS},
        "scorer": "answer.split() == gold.split()",
        "arms": {"mine": {"pipeline": "lines.yaml"}},
        **suite,
    }
    return bench([model(CHEAP, work), model(STRONG, review, "0.01")], store=True, **given)


def only(report: Report) -> ReviewFigures:
    (one,) = report.analysis.reviews
    return one


def odd(right: int) -> bool:
    """True of the middle sum of each item: 8 of 24."""
    return right % 20 == 2


# Items with gold values of their own.


REVIEWERS: dict[str, tuple[Any, str, Any, tuple[int, ...]]] = {
    "accepts-all": (lambda *_: "accept", "revisions: 0", None, (0, 0, 0, 0, 0)),
    "refuses-all": (lambda *_: "reject", "revisions: 0\nmin_ok: 0", None, (8, 16, 0, 16, 0)),
    "drops-what-is-wrong": (catches("reject"), "revisions: 0", None, (8, 0, 0, 0, 0)),
    "repairs": (catches("revise"), "revisions: 1", lambda right: right, (8, 0, 8, 0, 0)),
    "repairs-nothing": (catches("revise"), "revisions: 1\nmin_ok: 0", lambda right: right + 1, (8, 0, 0, 0, 0)),
    "spoils": (
        lambda right, value: "revise" if right == value else "accept",
        "revisions: 1\nescalate_to: bulk",
        lambda right: right + 5,
        (0, 16, 0, 16, 0),
    ),
    "escalates": (catches("escalate"), "revisions: 0\nescalate_to: frontier", None, (8, 0, 8, 0, 0)),
    "fails": (lambda *_: ContentFilterError("no"), "revisions: 0\nmin_ok: 0", None, (8, 16, 0, 16, 24)),
    "says-nothing": (lambda *_: None, "revisions: 0\nmin_ok: 0", None, (8, 16, 0, 16, 24)),
    "batch-of-three": (catches("reject"), "revisions: 0\nbatch: 3", None, (8, 0, 0, 0, 0)),
    "batch-of-two": (catches("revise"), "revisions: 1\nbatch: 2", lambda right: right, (8, 0, 8, 0, 0)),
    "checks-first": (
        lambda *_: "accept",
        "revisions: 0\nchecks: {max_length: 1}\nmin_ok: 0",
        None,
        (7, 14, 0, 14, 0),
    ),
}
"""The reviewer, the options of its review, a revision, and (caught, refused, repaired, spoiled, silent)."""


def test_reviews_are_measured_on_the_items_that_they_judged(bench: Bench, lines: Any) -> None:
    models, arms = [], {}
    for name, (judge, options, revised, _) in REVIEWERS.items():
        lines(options, name=f"{name}.yaml")
        author = model(f"scripted/author-{name}", worker(odd, revised or (lambda right: right)))
        models += [author, model(f"scripted/judge-{name}", reviewer(judge), "0.01")]
        roles = {"bulk": models[-2].info.id, "frontier": models[-1].info.id}
        arms[name] = {"pipeline": f"{name}.yaml", "roles": roles}
    report = bench(models, tasks={"lines": ITEMS}, scorer="answer == gold", arms=arms, baselines=())
    found = {one.arm: one for one in report.analysis.reviews}
    assert {(one.stage, one.kind, one.unit, one.judged) for one in found.values()} == {
        ("check", "review", "items", 24)
    }
    assert {(one.wrong, one.right) for one in found.values()} == {(8, 16)}
    counts = {name: (one.caught, one.refused, one.repaired, one.spoiled, one.silent) for name, one in found.items()}
    assert counts == {name: case[-1] for name, case in REVIEWERS.items()}
    for one in found.values():
        assert one.caught_share is not None
        assert one.caught_share.low <= one.caught / 8 <= one.caught_share.high
        assert (one.plain, one.equal) == (None, None)


def test_cost_calls_and_seconds_are_those_of_the_review_with_its_revisions(bench: Bench, lines: Any) -> None:
    lines("revisions: 1")
    one = only(measured(bench, worker(odd), reviewer(catches("revise")), baselines=()))
    assert one.calls == 24 + 8 + 8  # verdicts, revisions, and verdicts on these
    assert one.cost == pytest.approx(32 * 0.01 + 8 * 0.001)
    assert one.seconds >= 0


def test_prices_of_the_suite_hold_for_reviews_too(bench: Bench, lines: Any) -> None:
    lines()
    prices = {STRONG: {"input": 10, "output": 100}}
    one = only(measured(bench, worker(odd), reviewer(catches("reject")), baselines=(), prices=prices))
    assert one.cost == pytest.approx(24 * (1000 * 10 + 100 * 100) / 1e6)


GOLD_ITEMS: dict[str, tuple[Callable[[Any], list[Any]], int]] = {
    "fewer-than-items": (lambda row: row["parts"][:2], 16),
    "unknown-ones": (lambda row: [None, *row["parts"][1:]], 16),
    "more-than-items": (lambda row: [*row["parts"], "7"], 24),
    "numbers": (lambda row: [int(one) for one in row["parts"]], 24),
    "other-form": (lambda row: [f"{one}.0" for one in row["parts"]], 24),
}


def test_gold_items_are_matched_by_their_place(bench: Bench, lines: Any, tmp_path: Path) -> None:
    tasks = {}
    for name, (parts, _) in GOLD_ITEMS.items():
        lines(parts=parts)
        (tmp_path / "lines.jsonl").rename(tmp_path / f"{name}.jsonl")
        tasks[name] = {**ITEMS, "file": f"{name}.jsonl"}
    report = measured(bench, worker(odd), reviewer(catches("reject")), baselines=(), tasks=tasks)
    judged = dict.fromkeys(GOLD_ITEMS, 0)
    for one in report.results.outcomes:
        for verdict in one.reviews[0].verdicts:
            judged[one.item.partition("/")[0]] += verdict.before is not None
    assert judged == {name: count for name, (_, count) in GOLD_ITEMS.items()}
    assert (only(report).caught, only(report).refused) == (only(report).wrong, 0)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        pytest.param("4 8", "'parts' is no list of gold items in items 1, 2, 3", id="text"),
        pytest.param({"a": 4}, "'parts' is no list of gold items", id="mapping"),
        pytest.param([], "no gold answer ('parts')", id="empty"),
        pytest.param(None, "no gold answer ('parts')", id="null"),
        pytest.param(12, "'parts' is no list of gold items", id="number"),
    ],
)
def test_gold_items_that_are_no_list_are_named(bench: Bench, lines: Any, value: Any, named: str) -> None:
    lines(parts=lambda row: value)
    with pytest.raises(Exception, match=re.escape(named)):
        measured(bench, worker(odd), reviewer(catches("reject")), baselines=())


@pytest.mark.parametrize(
    ("source", "scorer", "named"),
    [
        ("{file: l.jsonl, item_scorer: number}", "exact", "`item_scorer` has an effect with `item_gold` only"),
        (
            "{file: l.jsonl, item_gold: p, item_scorer: {by: judge, model: a/b}}",
            "exact",
            "a judge scores whole answers only; give another `item_scorer`",
        ),
        (
            "{file: l.jsonl, item_gold: p}",
            "{by: judge, model: a/b}",
            "a judge scores whole answers only; give the task set 'l' an `item_scorer`",
        ),
    ],
)
def test_what_cannot_score_items_is_refused(source: str, scorer: str, named: str) -> None:
    from fusion.bench import Suite

    text = f"tasks: {{l: {source}}}\nscorer: {scorer}\narms: {{a: {{model: m/x}}}}\n"
    with pytest.raises(PipelineError, match=re.escape(named)):
        Suite.from_yaml(text)


# Items that the gold answer of the whole scores.


@pytest.mark.parametrize("scorer", ["records", "total"])
def test_records_of_the_whole_answer_score_its_parts(bench: Bench, tmp_path: Path, scorer: str) -> None:
    (tmp_path / "notes.yaml").write_text(
        "inputs: {notes: Notes.}\n"
        + ROLES
        + """
stages:
  read: {kind: map, over: inputs.notes.splitlines(), role: bulk, prompt: "Work: {{ item.source }}"}
  check:
    {kind: review, over: read, role: frontier, revisions: 0, prompt: "Review: {{ item.source }} {{ item.value }}"}
output: check | map(attribute="value") | join("\\n")
"""
    )
    rows = [
        {
            "id": f"d{at}",
            "prompt": f"Elm Ltd bills {at}1\nOak Ltd bills {at}2\nnothing of interest",
            "records": [
                {"supplier": "Elm Ltd", "euros": int(f"{at}1")},
                {"supplier": "Oak Ltd", "euros": int(f"{at}2")},
            ],
            "total": int(f"{at}1") + int(f"{at}2"),
        }
        for at in range(1, 6)
    ]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def work(request: Request) -> Any:
        line = said(request).partition("Work: ")[2].strip()
        if "bills" not in line:
            return spoken("no record")
        name, _, amount = line.partition(" bills ")
        return spoken(f"{name}: {amount.replace('32', '99')}")

    def judge(request: Request) -> Any:
        return spoken(verdict("reject" if "99" in said(request) else "accept"))

    report = bench(
        [model(CHEAP, work), model(STRONG, judge, "0.01")],
        tasks={"notes": {"file": "notes.jsonl", "gold": ["records", "total"]}},
        scorer=scorer,
        arms={"mine": {"pipeline": "notes.yaml"}},
        baselines=(),
    )
    one = only(report)
    assert (one.unit, one.judged, one.wrong, one.caught, one.refused) == ("items", 10, 1, 1, 0)


# Whole answers, against the same arm without its review.


def test_the_arm_without_its_review_scores_whole_answers(bench: Bench, lines: Any) -> None:
    lines("revisions: 1")
    report = measured(
        bench,
        worker(lambda right: right % 40 == 2),
        reviewer(catches("revise")),
        tasks={"lines": {"file": "lines.jsonl"}},
    )
    one = only(report)
    assert (one.unit, one.judged, one.wrong, one.caught) == ("answers", 8, 4, 4)
    assert (one.right, one.refused, one.repaired, one.spoiled) == (4, 0, 4, 0)
    assert one.plain is not None
    assert one.plain.against == "mine without check"
    assert one.plain.difference.estimate == pytest.approx(0.5)
    without = next(arm for arm in report.results.arms if arm.of == "mine")
    assert (without.kind, without.without) == ("baseline", "check")


def test_the_arm_without_its_review_pays_for_no_call_twice(bench: Bench, lines: Any) -> None:
    lines()
    cheap, strong = model(CHEAP, worker(odd)), model(STRONG, reviewer(catches("reject")), "0.01")
    given = {"tasks": {"lines": ITEMS}, "scorer": "answer == gold", "arms": {"mine": {"pipeline": "lines.yaml"}}}
    bench([cheap, strong], store=True, baselines=("no_review",), **given)
    assert (len(cheap.requests), len(strong.requests)) == (24, 24)


def test_the_arm_without_its_review_is_compared_with_its_own_arm_only(bench: Bench, lines: Any) -> None:
    lines()
    report = measured(bench, worker(odd), reviewer(catches("reject")))
    assert "mine without check" in {one.arm for one in report.analysis.figures}
    pairs = {(one.arm, one.against) for one in (*report.analysis.pairings, *report.analysis.at_equal_dollars)}
    assert not any("without" in name for pair in pairs for name in pair)


@pytest.mark.parametrize(
    ("wrong", "use", "difference"),
    [
        pytest.param(odd, "scripted/strong", -1.0, id="strong-alone-is-right-and-cheaper"),
        pytest.param(lambda right: False, "", 0.0, id="nothing-to-gain"),
    ],
)
def test_the_dollars_of_a_review_are_spent_otherwise(
    bench: Bench, lines: Any, wrong: Any, use: str, difference: float
) -> None:
    lines()
    one = only(measured(bench, worker(wrong), reviewer(catches("reject"))))
    assert one.equal is not None
    assert one.equal.single == use
    assert one.equal.difference.estimate == pytest.approx(difference)


def test_a_dearer_model_gets_the_share_that_the_review_would_cost(bench: Bench, lines: Any, tmp_path: Path) -> None:
    lines("batch: 3")
    tiny = "scripted/tiny"
    text = (tmp_path / "lines.yaml").read_text().replace("chain: [scripted/strong]", f"chain: [{tiny}]")
    (tmp_path / "lines.yaml").write_text(text)
    given = {"tasks": {"lines": {"file": "lines.jsonl"}}, "scorer": "answer.split() == gold.split()"}
    report = bench(
        [
            model(CHEAP, worker(odd)),
            model(tiny, reviewer(lambda *_: "accept"), "0.002"),
            model(STRONG, reviewer(catches("reject")), "0.013"),
        ],
        store=True,
        arms={"mine": {"pipeline": "lines.yaml"}, "strong": {"model": STRONG}, "tiny": {"model": CHEAP}},
        baselines=("no_review",),
        **given,
    )
    one = only(report)
    assert one.equal is not None
    # An item costs 3 x 0.001 without review and 0.002 more with it; strong costs 0.013.
    assert one.equal.single == "strong"
    assert one.equal.share == pytest.approx(0.2)
    assert one.equal.cost_ratio == pytest.approx(1.0)
    assert one.equal.difference.estimate == pytest.approx(-0.2)


def test_an_arm_without_a_reviewer_passes_all_its_items(bench: Bench, lines: Any) -> None:
    lines()
    report = measured(
        bench,
        worker(odd),
        reviewer(catches("reject")),
        arms={"none": {"pipeline": "lines.yaml", "roles": {"frontier": "none"}}, "mine": {"pipeline": "lines.yaml"}},
        baselines=("no_review",),
    )
    found = {one.arm: one for one in report.analysis.reviews}
    assert (found["none"].caught, found["none"].refused, found["none"].silent, found["none"].calls) == (0, 0, 24, 0)
    assert (found["mine"].caught, found["mine"].refused) == (8, 0)
    arm = next(one for one in report.results.arms if one.name == "none")
    assert arm.models == (CHEAP,)


def test_a_reviewer_of_an_arm_s_own_role_may_be_left_out(bench: Bench, lines: Any, tmp_path: Path) -> None:
    lines()
    path = tmp_path / "lines.yaml"
    path.write_text(path.read_text().replace("role: frontier", "role: reader"))
    arms = {"mine": {"pipeline": "lines.yaml", "roles": {"reader": STRONG, "bulk": CHEAP}}}
    one = only(measured(bench, worker(odd), reviewer(catches("reject")), arms=arms, baselines=("no_review",)))
    assert one.plain is not None
    assert one.plain.against == "mine without check"


def test_a_missing_gold_is_said(bench: Bench, lines: Any) -> None:
    lines()
    tasks = {"lines": {"file": "lines.jsonl"}}
    report = measured(bench, worker(odd), reviewer(catches("reject")), tasks=tasks, baselines=("singles",))
    assert only(report).unit is None
    (note,) = (one for one in report.analysis.notes if one.startswith("The review check of mine is not measured"))
    assert "item_gold" in note
    assert "## Reviews" not in report.markdown()
    assert any(
        "leaves out baselines: self_consistency, random_mixing, oracle, no_review" in n for n in report.analysis.notes
    )


# Judges.


CASCADE = (
    "inputs: {question: A sum.}\n"
    + ROLES
    + """
stages:
  answer:
    kind: cascade
    prompt: "Work: {{ inputs.question }}"
    tiers: [bulk, frontier]
    accept: {judge: frontier, judge_prompt: "Review: {{ inputs.question }} -> {{ candidate }}"OPTIONS}
output: answer
"""
)


def judging(judge: Callable[[int, int], tuple[str, float] | Exception]) -> Any:
    def script(request: Request) -> Any:
        right, value = sums(said(request))[0]
        if value is None:
            return spoken(str(right))
        found = judge(right, value)
        if isinstance(found, Exception):
            return found
        return spoken({"problem": "", "verdict": found[0], "confidence": found[1]})

    return script


def single_sums(path: Path, count: int = 20) -> None:
    rows = [{"id": f"q{n}", "prompt": f"{n}+{n}", "gold": str(2 * n)} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


JUDGES: dict[str, tuple[Any, str, tuple[int, ...]]] = {
    "accepts-all": (lambda *_: ("accept", 0.9), "", (0, 0, 0, 0, 0)),
    "escalates-all": (lambda *_: ("escalate", 0.9), "", (5, 15, 5, 0, 0)),
    "knows": (lambda r, v: ("accept" if r == v else "escalate", 0.9), "", (5, 0, 5, 0, 0)),
    "threshold": (lambda r, v: ("accept", 0.9 if r == v else 0.3), ", confidence: 0.5", (5, 0, 5, 0, 0)),
    "never-sure": (lambda *_: ("accept", 0.4), ", confidence: 0.5", (5, 15, 5, 0, 0)),
    "fails": (lambda *_: ContentFilterError("no"), "", (5, 15, 5, 0, 20)),
}
"""The judge, more conditions, and (caught, refused, repaired, spoiled, silent)."""


def test_judges_of_cascades_are_measured_on_answers(bench: Bench, tmp_path: Path) -> None:
    single_sums(tmp_path / "sums.jsonl")
    cheap = model(CHEAP, worker(lambda right: right % 8 == 2))
    models, arms = [cheap], {}
    for name, (judge, options, _) in JUDGES.items():
        (tmp_path / f"{name}.yaml").write_text(CASCADE.replace("OPTIONS", options))
        models.append(model(f"scripted/judge-{name}", judging(judge), "0.01"))
        arms[name] = {"pipeline": f"{name}.yaml", "roles": {"frontier": models[-1].info.id}}
    report = bench(models, store=True, arms=arms, baselines=("no_review",))
    found = {one.arm: one for one in report.analysis.reviews}
    assert {(one.stage, one.kind, one.unit, one.judged) for one in found.values()} == {
        ("answer", "cascade", "answers", 20)
    }
    assert {(one.wrong, one.right) for one in found.values()} == {(5, 15)}
    counts = {name: (one.caught, one.refused, one.repaired, one.spoiled, one.silent) for name, one in found.items()}
    assert counts == {name: case[-1] for name, case in JUDGES.items()}
    assert {one.calls for one in found.values()} == {20}
    assert {one.plain.against for one in found.values() if one.plain} == {f"{name} without answer" for name in JUDGES}
    assert len(cheap.requests) == 20  # the arms share the first tier


def test_a_judge_that_is_not_asked_judges_nothing(bench: Bench, tmp_path: Path) -> None:
    single_sums(tmp_path / "sums.jsonl")
    (tmp_path / "judged.yaml").write_text(CASCADE.replace("OPTIONS", ", checks: {max_length: 1}"))
    models = [model(CHEAP, worker(lambda right: False)), model(STRONG, judging(lambda *_: ("accept", 0.9)), "0.01")]
    report = bench(models, store=True, arms={"judged": {"pipeline": "judged.yaml"}}, baselines=("no_review",))
    assert (only(report).judged, only(report).calls) == (5, 5)


def test_the_judge_of_a_cascade_over_items_is_measured_on_items(bench: Bench, lines: Any, tmp_path: Path) -> None:
    lines()
    text = CASCADE.replace("OPTIONS", "").replace(
        "kind: cascade", "kind: cascade\n    over: inputs.question.splitlines()"
    )
    text = text.replace("inputs.question }}", "item.source }}").replace(
        "output: answer", 'output: answer | map(attribute="value") | join(" ")'
    )
    (tmp_path / "lines.yaml").write_text(text)
    judge = judging(lambda right, value: ("accept" if right == value else "escalate", 0.9))
    one = only(measured(bench, worker(odd), judge, baselines=()))
    assert (one.unit, one.judged, one.wrong, one.caught, one.refused) == ("items", 24, 8, 8, 0)
    assert (one.repaired, one.spoiled, one.calls) == (8, 0, 24)


PANEL = (
    "inputs: {question: A sum.}\n"
    + ROLES
    + """
stages:
  panel: {kind: panel, members: [bulk, bulk], prompt: "Work: {{ inputs.question }}"}
  compare: {kind: judge, over: panel, role: frontier, prompt: "Compare: {{ inputs.question }}"}
  answer:
    kind: generate
    role: frontier
    prompt: "Answer: {{ inputs.question }} confident: {{ compare.analysis.confidence | default(0.9) }}"
output: answer
"""
)


SURE: dict[str, tuple[Any, tuple[int, ...]]] = {
    "of-all": (lambda right: 0.9, (0, 0, 0, 0, 0)),
    "of-nothing": (lambda right: 0.2, (5, 15, 5, 0, 0)),
    "of-what-is-right": (lambda right: 0.2 if right % 8 == 2 else 0.9, (5, 0, 5, 0, 0)),
    "of-what-is-wrong": (lambda right: 0.9 if right % 8 == 2 else 0.2, (0, 15, 0, 0, 0)),
    "says-nothing": (lambda right: None, (5, 15, 0, 0, 20)),
}
"""The confidence of a judge in the consensus, and (caught, refused, repaired, spoiled, silent)."""


def comparing(confidence: Any) -> Any:
    """Judges the panel, and answers as the panel does where the judge is sure of it, or says nothing."""

    def script(request: Request) -> Any:
        words = said(request)
        right, _ = sums(words)[0]
        if words.startswith("Compare"):
            sure = confidence(right)
            lists = ("consensus", "contradictions", "partial_coverage", "unique_insights", "blind_spots", "evidence")
            analysis = {**{name: [] for name in lists}, "confidence": sure, "vote_settles": False}
            return spoken("?" if sure is None else analysis)
        return spoken(str(right + 1 if "confident: 0.9" in words and right % 8 == 2 else right))

    return script


def test_judges_of_a_panel_are_measured_on_answers(bench: Bench, tmp_path: Path) -> None:
    single_sums(tmp_path / "sums.jsonl")
    (tmp_path / "judged.yaml").write_text(PANEL)
    models, arms = [model(CHEAP, worker(lambda right: right % 8 == 2))], {}
    for name, (confidence, _) in SURE.items():
        models.append(model(f"scripted/judge-{name}", comparing(confidence), "0.01"))
        arms[name] = {"pipeline": "judged.yaml", "roles": {"frontier": models[-1].info.id}}
    report = bench(models, store=True, arms=arms, baselines=("no_review",))
    found = {one.arm: one for one in report.analysis.reviews}
    assert {(one.kind, one.unit, one.judged, one.wrong) for one in found.values()} == {("judge", "answers", 20, 5)}
    counts = {name: (one.caught, one.refused, one.repaired, one.spoiled, one.silent) for name, one in found.items()}
    assert counts == {name: case[-1] for name, case in SURE.items()}


# Reports and files.


def test_reports_show_the_reviews(bench: Bench, lines: Any, tmp_path: Path) -> None:
    lines("revisions: 1")
    report = measured(bench, worker(odd), reviewer(catches("revise")))
    row = next(line for line in report.markdown().splitlines() if line.startswith("| mine: check"))
    assert "| 24 items | 8 of 8 | 67.6 to 100.0 | 0 of 16 | 0.0 to 19.4 | 0 | 8 | 0 |" in row
    assert "<td>8 of 8</td>" in report.page()
    assert "mine without check" in report.page()
    assert "| mine | check | +100.00 |" in report.markdown()


def test_results_keep_the_reviews_and_older_ones_load(bench: Bench, lines: Any, tmp_path: Path) -> None:
    lines()
    report = measured(bench, worker(odd), reviewer(catches("reject")))
    path = tmp_path / "out" / "results.json"
    again = Report(Results.load(path))
    assert again.analysis.reviews == report.analysis.reviews
    older = json.loads(path.read_text())
    for outcome in older["outcomes"]:
        del outcome["reviews"]
    for arm in older["arms"]:
        del arm["of"], arm["without"]
    path.write_text(json.dumps(older))
    assert Report(Results.load(path)).analysis.reviews == ()


def test_a_second_start_scores_the_reviews_anew_without_a_call(bench: Bench, lines: Any) -> None:
    lines()
    first = measured(bench, worker(odd), reviewer(catches("reject")))
    lines(parts=lambda row: [str(int(one) + 1) for one in row["parts"]])
    cheap, strong = model(CHEAP, worker(odd)), model(STRONG, reviewer(catches("reject")), "0.01")
    again = bench(
        [cheap, strong],
        store=True,
        tasks={"lines": ITEMS},
        scorer="answer.split() == gold.split()",
        arms={"mine": {"pipeline": "lines.yaml"}},
    )
    assert (len(cheap.requests), len(strong.requests)) == (0, 0)
    assert (only(first).wrong, only(again).wrong) == (8, 16)
