"""Ways: the outcome of a way in the table is that of the engine, and the choice is sound on data of a known kind."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion import Fusion, Pipeline
from fusion.bench.tuner.chooser import choose
from fusion.bench.tuner.ways import Answers, Space, Table, Way
from fusion.core.errors import UsageError
from fusion.stages.text.extract import Extractor

MODELS = tuple("abcdef")
PRICES = {name: 2.0**at for at, name in enumerate(MODELS)}
NUMBER = Extractor(read="number")
QUESTIONS = 40


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of six models to questions: numbers of a few values, some without a number."""
    folder = tmp_path_factory.mktemp("recording")
    draw = random.Random(7)
    with (folder / "answers.jsonl").open("w") as lines:
        for at in range(QUESTIONS):
            texts = {name: draw.choice(["4", "4.0", "5", "6", "no idea"]) for name in MODELS}
            responses = {
                name: {"text": text, "prompt_tokens": 10 + at, "completion_tokens": len(text)}
                for name, text in texts.items()
            }
            lines.write(json.dumps({"prompt": f"question {at}", "responses": responses}) + "\n")
    prices = {
        name: {"input_usd_per_million_tokens": usd, "output_usd_per_million_tokens": 3 * usd}
        for name, usd in PRICES.items()
    }
    (folder / "prices.json").write_text(json.dumps({"models": prices}))
    return folder


def answers(recording: Path) -> Answers:
    rows = [json.loads(line)["responses"] for line in (recording / "answers.jsonl").read_text().splitlines()]
    scores, usd, keys = [], [], []
    for row in rows:
        found = [NUMBER.extract(row[name]["text"]) for name in MODELS]
        keys.append([None if one is None else one.key for one in found])
        scores.append([float(key == "4") for key in keys[-1]])
        usd.append(
            [
                PRICES[name] * (row[name]["prompt_tokens"] + 3 * row[name]["completion_tokens"]) / 1e6
                for name in MODELS
            ]
        )
    return Answers(MODELS, scores, usd, keys)


def through_the_engine(way: Way, agree: int, recording: Path) -> tuple[list[float], list[float]]:
    roles = {f"r_{name}": f"replay:{recording}#{name}" for name in way.models}
    named = [f"r_{name}" for name in way.models]
    stage: dict[str, Any] = {"kind": "cascade", "prompt": "generate/pass-through", "max_tokens": 100}
    stage |= {"tiers": [{"roles": named[:-1]}, named[-1]], "accept": {"agree": agree, "extract": "number"}}
    if not way.cheap:
        stage = {"kind": "generate", "prompt": "generate/pass-through", "role": named[0], "max_tokens": 100}
    pipeline = Pipeline.from_data(
        {"name": "way", "inputs": {"q": {}}, "roles": roles, "stages": {"answer": stage}, "output": "answer"}
    )
    with Fusion(profile="local") as fusion:
        results = [fusion.complete(f"question {at}", pipeline=pipeline) for at in range(QUESTIONS)]
    found = [NUMBER.extract(result.text) for result in results]
    return [float(one is not None and one.key == "4") for one in found], [float(one.cost.usd) for one in results]


@pytest.mark.parametrize("agree", [2, 3])
def test_the_table_says_what_the_engine_does(recording: Path, agree: int) -> None:
    table = Table(answers(recording), Space(models=MODELS, agree=agree))
    for at in random.Random(agree).sample(range(len(table)), 8):
        scores, usd = table.outcome(at)
        right, paid = through_the_engine(table.way(at), agree, recording)
        assert scores.tolist() == right, table.way(at)
        assert usd.tolist() == pytest.approx(paid), table.way(at)


@pytest.mark.parametrize("agree", [2, 3, 4])
@pytest.mark.parametrize("max_tiers", [1, 2, 3])
def test_sums_over_groups_are_those_of_the_outcomes(recording: Path, agree: int, max_tiers: int) -> None:
    table = Table(answers(recording), Space(models=MODELS, agree=agree, max_tiers=max_tiers))
    groups = np.array([[at % 3 for at in range(QUESTIONS)], [at // 20 for at in range(QUESTIONS)]])
    totals = table.totals(groups, 3)
    for at in range(0, len(table), 7):
        scores, usd = table.outcome(at)
        for division, group in np.ndindex(2, 3):
            its = groups[division] == group
            assert totals.scores[at, division, group] == pytest.approx(scores[its].sum())
            assert totals.usd[at, division, group] == pytest.approx(usd[its].sum())


@pytest.mark.parametrize(
    ("space", "number"),
    [
        ({"max_tiers": 1}, 6),
        ({"max_tiers": 2}, 6 + 15 * 4),
        ({}, 6 + 15 * 4 + 15 * 4 * 3),
        ({"else": ["f"]}, 1 + 10 + 10 * 3),
        ({"agree": 3, "max_tiers": 2}, 6 + 20 * 3),
    ],
)
def test_all_ways_of_a_space_are_there_once(recording: Path, space: dict[str, Any], number: int) -> None:
    table = Table(answers(recording), Space.model_validate({"models": MODELS, **space}))
    ways = [table.way(at) for at in range(len(table))]
    assert len(ways) == len(set(ways)) == number
    assert all(len(set(way.models)) == len(way.models) for way in ways)


def test_too_many_ways_are_refused() -> None:
    names = tuple(f"m{at}" for at in range(24))
    known = Answers(names, np.ones((2, 24)), np.ones((2, 24)), [["1"] * 24] * 2)
    with pytest.raises(UsageError, match=r"ways of 24 models are too many; .* give fewer models, `else`"):
        Table(known, Space(models=names, agree=3))


def drawn(seed: int, accuracies: dict[str, float], items: int = 300) -> Answers:
    """Answers of models that are right independently of each other; wrong ones differ."""
    draw = np.random.default_rng(seed)
    right = draw.random((items, len(accuracies))) < list(accuracies.values())
    keys = [["right" if one else f"wrong {at}" for at, one in enumerate(row)] for row in right]
    usd = np.tile([2.0**at for at in range(len(accuracies))], (items, 1))
    return Answers(tuple(accuracies), right.astype(float), usd, keys)


@pytest.mark.parametrize("seed", range(3))
def test_cheap_models_that_agree_beat_the_strong_one(seed: int) -> None:
    known = drawn(seed, {"a": 0.8, "b": 0.8, "c": 0.8, "d": 0.5, "e": 0.6, "f": 0.5, "strong": 0.9})
    chosen = choose({"all": known}, {"all": Space(models=known.models)}, seed=seed)
    assert set(chosen.ways["all"].cheap) <= {"a", "b", "c"}
    assert len(chosen.ways["all"].cheap) >= 2
    assert chosen.difference >= 0
    assert chosen.cost_ratio < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_a_cheap_model_that_is_as_good_answers_alone(seed: int) -> None:
    known = drawn(seed, {"a": 0.95, "b": 0.5, "c": 0.4, "strong": 0.9})
    assert choose({"all": known}, {"all": Space(models=known.models)}, seed=seed).ways["all"] == Way((), "a")


@pytest.mark.parametrize("seed", range(3))
def test_models_that_are_wrong_alike_are_not_believed(seed: int) -> None:
    known = drawn(seed, {"a": 0.6, "b": 0.6, "strong": 0.95})
    known = Answers(
        known.models, known.scores, known.usd, [["same", "same", "strong"] for _ in range(len(known.scores))]
    )
    chosen = choose({"all": known}, {"all": Space(models=known.models)}, seed=seed)
    assert chosen.ways["all"] == Way((), "strong")


def test_a_model_without_answers_to_a_route_takes_no_part_in_it() -> None:
    one, other = drawn(1, {"a": 0.9, "b": 0.8, "strong": 0.9}), drawn(2, {"a": 0.9, "b": 0.8, "strong": 0.9})
    known = Answers(one.models, np.where([True, False, True], one.scores, np.nan), one.usd, [["x"] * 3] * 300)
    chosen = choose({"one": known, "other": other}, {name: Space(models=one.models) for name in ("one", "other")})
    assert known.left_out == {"b": 0.0}
    assert "b" not in chosen.ways["one"].models
    assert {single.model for single in chosen.level} <= {"a", "strong"}


def test_without_a_model_that_all_routes_know_there_is_nothing_to_compare_with() -> None:
    one, other = drawn(1, {"a": 0.9, "b": 0.8}), drawn(2, {"c": 0.9, "d": 0.8})
    spaces = {"one": Space(models=one.models), "other": Space(models=other.models)}
    with pytest.raises(UsageError, match="no model has answers on every task set"):
        choose({"one": one, "other": other}, spaces)


def test_documents_are_never_cut_in_two() -> None:
    known = drawn(3, {"a": 0.8, "b": 0.8, "strong": 0.9}, items=60)
    clusters = [f"document {at // 10}" for at in range(60)]
    chosen = choose({"all": known}, {"all": Space(models=known.models)}, clusters={"all": clusters})
    again = choose({"all": known}, {"all": Space(models=known.models)}, clusters={"all": clusters})
    assert chosen.ways == again.ways
    assert chosen.scores["all"].tolist() == again.scores["all"].tolist()


@pytest.mark.parametrize("at_least", [0.02, 0.05, 0.5])
def test_a_larger_gain_costs_more_or_leaves_the_best_model(at_least: float) -> None:
    known = drawn(4, {"a": 0.8, "b": 0.8, "c": 0.8, "strong": 0.9})
    space = {"all": Space(models=known.models)}
    plain, more = choose({"all": known}, space), choose({"all": known}, space, at_least=at_least)
    assert more.rate is None or more.cost_ratio >= plain.cost_ratio
    if more.rate is None:
        assert more.ways["all"] == Way((), "strong")
        assert more.difference == 0
