"""Learned figures: what is kept of two measurements, by several writers, and of a damaged file."""

import json
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion.core.errors import UsageError
from fusion.models.catalog.learned import (
    MOST_LABELS,
    MOST_MODELS,
    Answered,
    forget_learned,
    keep_learned,
    model_name,
    read_learned,
)

MONDAY, TUESDAY = date(2026, 11, 23), date(2026, 11, 24)


def answers(right: int, of: int, *, usd: str | None = "0.001", keys: str = "") -> dict[str, Answered]:
    """Answers to `of` items, the first ones right."""
    cost = None if usd is None else Decimal(usd)
    return {f"q{n}": Answered(float(n < right), cost, 0.5 + n, keys[n] if n < len(keys) else None) for n in range(of)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "learned.json"


def test_figures_are_kept_with_interval_cost_latency_and_agreement(file: Path) -> None:
    given = {"a/one": answers(8, 10, keys="aabbccddee"), "b/two": answers(10, 10, usd=None, keys="aabbccddff")}
    keep_learned(file, {"sums": given}, run="suite", day=MONDAY)
    one, two = (read_learned(file).figures("sums", name) for name in ("a/one", "b/two"))
    assert one is not None
    assert two is not None
    assert (one.n, one.accuracy, one.usd, one.cost, one.seconds) == (10, 0.8, Decimal("0.001"), "measured", 5.0)
    assert (one.day, one.run) == (MONDAY, "suite")
    assert [round(end, 3) for end in one.interval] == [0.49, 0.943]
    assert (two.usd, two.cost) == (None, "unknown")
    agreement = read_learned(file).labels["sums"].agreement("b/two", "a/one")
    assert agreement is not None
    assert (agreement.n, agreement.equal) == (10, 8)


@pytest.mark.parametrize(
    ("first", "then", "kept"),
    [
        ((100, MONDAY), (50, TUESDAY), (100, MONDAY)),
        ((100, MONDAY), (150, TUESDAY), (150, TUESDAY)),
        ((100, MONDAY), (100, TUESDAY), (100, TUESDAY)),
        ((1, MONDAY), (1, MONDAY), (1, MONDAY)),
        ((100, TUESDAY), (101, MONDAY), (101, MONDAY)),
    ],
)
def test_of_two_measurements_the_larger_counts_then_the_later(
    file: Path, first: tuple[int, date], then: tuple[int, date], kept: tuple[int, date]
) -> None:
    for count, day in (first, then):
        given = {"a/one": answers(count, count, keys="x" * count), "b/two": answers(0, count, keys="x" * count)}
        keep_learned(file, {"sums": given}, day=day)
    found = read_learned(file)
    figures = found.figures("sums", "a/one")
    assert figures is not None
    assert (figures.n, figures.day) == kept
    assert [(one.n, one.day) for one in found.labels["sums"].agreements] == [kept]


def test_a_model_measured_on_few_items_takes_no_other_with_it(file: Path) -> None:
    keep_learned(file, {"sums": {"a/one": answers(9, 10), "b/two": answers(9, 10)}}, day=MONDAY)
    keep_learned(file, {"sums": {"a/one": answers(1, 5), "c/new": answers(5, 5)}, "words": {}}, day=TUESDAY)
    found = read_learned(file)
    assert {name: one.n for name, one in found.labels["sums"].models.items()} == {
        "a/one": 10,
        "b/two": 10,
        "c/new": 5,
    }
    assert list(found.labels) == ["sums"]


@pytest.mark.parametrize(
    ("keys", "other", "equal"),
    [
        ("aaaa", "aaab", (4, 3)),
        ("ab", "ab", (4, 2)),
        ("", "aaaa", None),
        ("aaaa", "", None),
        ("abcd", "dcba", (4, 0)),
    ],
)
def test_agreement_counts_answers_that_can_be_compared(
    file: Path, keys: str, other: str, equal: tuple[int, int] | None
) -> None:
    keep_learned(file, {"sums": {"a/one": answers(4, 4, keys=keys), "b/two": answers(4, 4, keys=other)}})
    found = read_learned(file).labels["sums"].agreement("a/one", "b/two")
    assert (found and (found.n, found.equal)) == equal


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "invalid JSON"),
        ('{"version": 1, "labels": {"sums"', "invalid JSON"),
        ('{"version": 2, "labels": {}}', "version: "),
        (
            '{"labels": {"sums": {"models": {"a": {"n": 0, "right": 0, "day": "2026-11-23"}}}}}',
            "labels.sums.models.a.n",
        ),
        ('{"labels": {"sums": {"models": {"a": {"n": 3, "right": 4, "day": "2026-11-23"}}}}}', "4 right of 3"),
        ('{"labels": {"sums": {"models": {"a": {"n": 3, "right": NaN, "day": "2026-11-23"}}}}}', "NaN is not JSON"),
        ('{"labels": {}, "labels": {}}', "duplicate key 'labels'"),
        ("[1, 2]", "the file: "),
        ("\xff", "invalid JSON"),
    ],
)
def test_a_damaged_file_is_said_and_stays_as_it_is(file: Path, text: str, says: str) -> None:
    file.parent.mkdir()
    file.write_bytes(text.encode("latin-1"))
    for work in (
        lambda: read_learned(file),
        lambda: keep_learned(file, {"sums": {"a/one": answers(1, 1)}}),
        lambda: forget_learned(file, label="sums"),
    ):
        with pytest.raises(UsageError) as error:
            work()
        assert repr(str(file)) in str(error.value)
        assert says in str(error.value)
        assert "remove it to begin anew" in str(error.value)
    assert file.read_bytes() == text.encode("latin-1")
    assert {one.name for one in file.parent.iterdir()} == {"learned.json", "learned.json.lock"}


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file, not a folder")
    with pytest.raises(UsageError, match="cannot write"):
        keep_learned(tmp_path / "kept" / "learned.json", {"sums": {"a/one": answers(1, 1)}})


WRITER = """
import sys
from decimal import Decimal
from pathlib import Path
from fusion.models.catalog.learned import Answered, keep_learned
file, name = Path(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
for number in range(8):
    keep_learned(file, {f"label-{number}": {name: {"q": Answered(1.0, Decimal(1))}}})
"""


def test_writers_in_several_processes_lose_nothing_of_each_other(file: Path) -> None:
    names = ["a/one", "b/two", "c/three"]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(file), name], stdin=subprocess.PIPE, text=True)
        for name in names
    ]
    for one in writers:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.close()
    assert [one.wait(60) for one in writers] == [0, 0, 0]
    found = read_learned(file)
    assert len(found.labels) == 8
    assert all(sorted(one.models) == names for one in found.labels.values())


def test_the_figures_measured_longest_ago_are_left_out(file: Path) -> None:
    old = {f"old-{n}": {"a/one": answers(1, 1)} for n in range(MOST_LABELS)}
    keep_learned(file, old, day=MONDAY)
    keep_learned(file, {"new": {f"m/{n}": answers(1, 1) for n in range(MOST_MODELS)}}, day=TUESDAY)
    keep_learned(file, {"new": {f"late/{n}": answers(1, 1) for n in range(10)}}, day=date(2026, 11, 25))
    found = read_learned(file)
    assert len(found.labels) == MOST_LABELS
    assert len(found.labels["new"].models) == MOST_MODELS
    assert sum(name.startswith("late/") for name in found.labels["new"].models) == 10


def test_more_models_than_are_kept_in_one_measurement(file: Path) -> None:
    keep_learned(file, {"sums": {f"m/{n}": answers(1, 1, keys="x") for n in range(MOST_MODELS + 30)}})
    assert len(read_learned(file).labels["sums"].models) == MOST_MODELS


@pytest.mark.parametrize(
    ("chosen", "removed", "left"),
    [
        ({"label": "sums"}, 2, {"words": ["a/one"]}),
        ({"model": "a/one"}, 2, {"sums": ["b/two"]}),
        ({"label": "sums", "model": "b/two"}, 1, {"sums": ["a/one"], "words": ["a/one"]}),
        ({"label": "words", "model": "b/two"}, "no learned figures of 'b/two' on 'words'", None),
        ({"label": "sum"}, "no learned figures of the label 'sum'; did you mean 'sums'?", None),
        ({"model": "a/won"}, "no learned figures of the model 'a/won'; did you mean 'a/one'?", None),
    ],
)
def test_figures_are_forgotten_by_label_and_model(
    file: Path, chosen: dict[str, str], removed: int | str, left: dict[str, list[str]] | None
) -> None:
    both = {"a/one": answers(1, 1), "b/two": answers(1, 1)}
    keep_learned(file, {"sums": both, "words": {"a/one": answers(1, 1)}})
    before = file.read_text()
    if isinstance(removed, str):
        with pytest.raises(UsageError) as error:
            forget_learned(file, **chosen)
        assert removed in str(error.value)
        assert file.read_text() == before
        return
    assert forget_learned(file, **chosen) == removed
    assert {label: list(one.models) for label, one in read_learned(file).labels.items()} == left


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("openai/gpt-5.6", "openai/gpt-5.6"),
        ("replay:said.jsonl#cheap", "replay:said.jsonl#cheap"),
        ("replay:/data/recorded/said.jsonl#cheap", "replay:said.jsonl#cheap"),
        ("replay:folder/#a/b", "replay:folder#a/b"),
        ("local/small", "local/small"),
    ],
)
def test_a_recorded_model_is_known_without_its_folder(given: str, name: str) -> None:
    assert model_name(given) == name


def test_values_of_unknown_figures_compare_as_false(file: Path) -> None:
    keep_learned(file, {"sums": {"a/one": answers(1, 2, usd=None)}})
    figures = read_learned(file).figures("sums", "a/one")
    assert figures is not None
    values: dict[str, Any] = figures.values
    assert json.dumps(values["accuracy"]) == "0.5"
    assert not values["usd"] < 1
    assert not values["usd"] >= 1
