"""Benchmarks of the weather, at small sizes."""

from benchmarks.weather import pace, runs
from benchmarks.weather.client import provider


def test_a_stage_keeps_to_the_rate_of_its_server() -> None:
    with provider(rps=20.0) as server:
        seconds, lost = pace.run(server, 60)
        seen = server.seen()
    assert lost == 0
    assert 2.0 < seconds < 10
    assert seen["ok"] == 60
    assert seen.get("429", 0) <= 25


def test_the_ideal_time_follows_the_changes_of_the_limit() -> None:
    assert pace.ideal(100, ((0.0, 10.0),), 0.5) == 10.5
    assert pace.ideal(100, ((0.0, 10.0), (5.0, 5.0)), 0.0) == 15.0
    assert pace.ideal(100, pace.CHANGES, 0.0) == 12.0


def test_runs_in_bad_weather_are_right() -> None:
    with provider() as one, provider() as two:
        _, good, seen = runs.measure(one, two, 12, 8, storm=True)
    assert good == 12, seen
