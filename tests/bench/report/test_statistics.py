"""Intervals and tests against scipy, against published worked examples, and on what has no answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fusion.bench.report.statistics import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_rate,
    bootstrap_ratio,
    holm,
    mcnemar,
    sign_flip,
    verdict,
    wilson,
)

RNG = np.random.default_rng(7)
RIGHT = [float(value) for value in RNG.random(200) < 0.8]
OTHER = [float(value) for value in RNG.random(200) < 0.7]
COSTS = [float(value) for value in RNG.lognormal(0, 1, 200)]
PRICES = [float(value) for value in RNG.lognormal(1, 1, 200)]


# Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I, method 3.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(pair: tuple[int, int]) -> None:
    theirs = stats.binomtest(*pair).proportion_ci(method="wilson")
    ours = wilson(*pair)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert ours.low <= ours.estimate <= ours.high


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(first: int, second: int) -> None:
    theirs = stats.binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(theirs, rel=1e-9)


# Agresti 1990, p. 350, approval of the prime minister: 86 against 150 changed their mind; and R's mcnemar.exact
# for 121 against 59, p = 4.434e-06, as in the documentation of statsmodels.
@pytest.mark.parametrize(("first", "second", "p"), [(86, 150, 3.716e-05), (121, 59, 4.434e-06)])
def test_mcnemar_gives_the_published_values(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == pytest.approx(p, rel=1e-3)


def test_holm_gives_the_published_values() -> None:
    # Holm's procedure on the four values of R's p.adjust examples.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"one": 0.7, "two": 0.9}) == {"one": 1.0, "two": 1.0}
    assert holm({}) == {}


# The bootstrap.


@pytest.mark.parametrize("name", ["mean", "difference", "ratio"])
def test_the_bootstrap_is_scipys(name: str) -> None:
    if name == "ratio":
        ours = bootstrap_ratio(COSTS, PRICES, resamples=20_000)
        data = (COSTS, PRICES)
        theirs = stats.bootstrap(
            data,
            lambda one, two, axis: one.sum(axis=axis) / two.sum(axis=axis),
            paired=True,
            vectorized=True,
            method="BCa",
            n_resamples=20_000,
            rng=np.random.default_rng(1),
        )
    else:
        second = OTHER if name == "difference" else [0.0] * 200
        ours = bootstrap_difference(RIGHT, second, resamples=20_000)
        gaps = np.array(RIGHT) - np.array(second)
        theirs = stats.bootstrap((gaps,), np.mean, method="BCa", n_resamples=20_000, rng=np.random.default_rng(1))
    width = ours.high - ours.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(300):
        first, second = rng.random(120) < 0.8, rng.random(120) < 0.75
        interval = bootstrap_difference(first.astype(float), second.astype(float), resamples=2_000, seed=seed)
        hits += interval.low <= 0.05 <= interval.high
    assert 0.92 <= hits / 300 <= 0.98


def test_a_seed_gives_the_same_to_the_digit_and_another_does_not() -> None:
    first, again, other = (bootstrap_ratio(COSTS, PRICES, seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert first != other


def test_items_of_one_document_are_no_independent_evidence() -> None:
    copies = [value for value in RIGHT for _ in range(12)]
    documents = [index for index in range(len(RIGHT)) for _ in range(12)]
    alone, clustered = bootstrap_mean(copies), bootstrap_mean(copies, clusters=documents)
    plain = bootstrap_mean(RIGHT)
    assert clustered.high - clustered.low == pytest.approx(plain.high - plain.low, rel=0.05)
    assert alone.high - alone.low < 0.4 * (plain.high - plain.low)


def test_clusters_of_unequal_size_weigh_by_their_items() -> None:
    interval = bootstrap_mean([1, 1, 1, 0], clusters=["a", "a", "a", "b"])
    assert interval.estimate == 0.75
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_without_spread_the_interval_is_a_point() -> None:
    assert bootstrap_mean([1.0] * 30) == Interval(estimate=1.0, low=1.0, high=1.0)
    assert bootstrap_mean([0.5]) == Interval(estimate=0.5, low=0.5, high=0.5)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 20, 299, 400])
def test_few_items_that_are_all_alike_prove_nothing(n: int) -> None:
    """What none of them is may be this share of all: scipy's exact interval says so, and McNemar agrees."""
    unseen = stats.binomtest(0, n).proportion_ci(0.95, method="exact").high
    same = bootstrap_difference([1.0] * n, [1.0] * n, resamples=2_000)
    assert (same.estimate, same.low, same.high) == (0, pytest.approx(-unseen), pytest.approx(unseen))
    assert verdict(same, 0.01) == ("not worse" if n > 367 else "inconclusive")
    ahead = bootstrap_difference([1.0] * n, [0.0] * n, resamples=2_000)
    assert (ahead.estimate, ahead.high) == (1, 1)
    assert (verdict(ahead, 0) == "better") == (mcnemar(n, 0) < 0.05)
    behind = bootstrap_difference([0.0] * n, [1.0] * n, resamples=2_000)
    assert (behind.low, behind.high) == (-1, pytest.approx(-ahead.low))
    rate = bootstrap_rate([1.0] * n, resamples=2_000)
    assert (rate.low, rate.high) == (pytest.approx(1 - unseen), 1)


def test_what_was_never_worse_in_a_few_items_may_be_so_in_others() -> None:
    first, second = [1.0] * 20, [1.0] * 19 + [0.0]
    one_better = bootstrap_difference(first, second, resamples=2_000)
    assert one_better.estimate == pytest.approx(0.05)
    assert one_better.low < -0.1 < 0 < one_better.high
    same = bootstrap_difference([0.5] * 40, [0.5] * 40, clusters=[n // 10 for n in range(40)], resamples=2_000)
    assert (same.low, same.high) == (pytest.approx(-0.602, abs=0.001), pytest.approx(0.602, abs=0.001))


def test_scores_that_differ_by_more_or_less_are_their_own_evidence() -> None:
    first = [0.9, 0.8, 1.0, 0.95, 0.85, 1.0]
    second = [0.8, 0.6, 0.85, 0.9, 0.65, 0.9]
    assert bootstrap_difference(first, second, resamples=2_000) == bootstrap_mean(
        [one - other for one, other in zip(first, second, strict=True)], resamples=2_000
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_mean([]), "no items"),
        (lambda: bootstrap_mean([1.0], resamples=100), "2,000"),
        (lambda: bootstrap_ratio([1.0], [0.0]), "can be 0"),
        (lambda: bootstrap_difference([1.0], [1.0, 0.0]), "same items"),
        (lambda: bootstrap_mean([1.0, 0.0], clusters=["a"]), "1 clusters"),
        (lambda: wilson(3, 2), "3 in 2"),
        (lambda: wilson(0, 0), "0 in 0"),
        (lambda: verdict(Interval(estimate=0, low=0, high=0), -0.01), "margin"),
    ],
)
def test_what_has_no_answer_is_refused(call, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        call()


# The test by flipping signs.


def test_flipping_signs_agrees_with_mcnemar_and_with_scipy() -> None:
    first, second = [1.0] * 12 + [0.0] * 3 + [1.0] * 40, [0.0] * 12 + [1.0] * 3 + [1.0] * 40
    p = sign_flip(first, second, resamples=50_000)
    assert p == pytest.approx(mcnemar(12, 3), abs=0.005)
    theirs = stats.permutation_test(
        (first, second),
        lambda one, two, axis: np.mean(one - two, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=50_000,
        rng=np.random.default_rng(0),
    )
    assert p == pytest.approx(theirs.pvalue, abs=0.005)


def test_flipping_signs_of_clusters_knows_that_copies_prove_nothing() -> None:
    first, second = [1.0] * 30, [0.0] * 30
    assert sign_flip(first, second) < 0.001
    assert sign_flip(first, second, clusters=["a"] * 15 + ["b"] * 15) == pytest.approx(0.5, abs=0.02)


# Verdicts.


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.001, 0.02, "better"),
        (0.0, 0.02, "not worse"),
        (-0.01, 0.02, "not worse"),
        (-0.011, 0.02, "inconclusive"),
        (-0.03, -0.005, "inconclusive"),
        (-0.03, -0.011, "worse"),
    ],
)
def test_a_verdict_is_the_intervals_and_not_the_estimates(low: float, high: float, said: str) -> None:
    assert verdict(Interval(estimate=(low + high) / 2, low=low, high=high), 0.01) == said
