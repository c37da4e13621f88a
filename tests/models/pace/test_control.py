"""Control: finds the rate or the concurrency of a server from what it refuses, in simulated time."""

import pytest

from fusion.models.pace.control import Control
from tests.models.pace.servers import Admits, Stage, bucket, fixed, noise, sliding, slots


@pytest.mark.parametrize(
    ("admits", "retry_after", "latency", "wide"),
    [
        (sliding(10), None, 0.3, 16),
        (sliding(10), 1.0, 0.3, 16),
        (sliding(10), None, 0.3, 200),
        (sliding(10), None, 3.0, 64),
        (sliding(10), None, 0.002, 16),
        (fixed(10), None, 0.3, 16),
        (fixed(10), 1.0, 0.3, 16),
        (bucket(10, 10), None, 0.3, 16),
        (bucket(10, 10), 1.0, 0.3, 16),
        (bucket(10, 20), None, 0.3, 16),
    ],
)
def test_ten_requests_a_second(admits: Admits, retry_after: float | None, latency: float, wide: int) -> None:
    seconds, refused, _ = Stage(admits, retry_after=retry_after, latency=latency, wide=wide).run()
    assert seconds <= 1.15 * (20 + latency)
    assert refused <= 0.09 * 200


@pytest.mark.parametrize(
    ("rate", "items", "wide", "bound"),
    [(2, 60, 16, 1.5), (5, 200, 16, 1.2), (25, 300, 32, 1.2), (100, 1500, 128, 1.2)],
)
def test_other_rates(rate: float, items: int, wide: int, bound: float) -> None:
    seconds, refused, _ = Stage(sliding(rate), items=items, wide=wide).run()
    assert seconds <= bound * (items / rate + 0.3)
    assert refused <= 0.05 * items + 8


@pytest.mark.parametrize("retry_after", [None, 1.0])
@pytest.mark.parametrize("new", [5.0, 2.5, 20.0, 40.0])
def test_a_changed_limit_is_followed_in_ten_seconds(new: float, retry_after: float | None) -> None:
    replies = Stage(sliding(10, (12.0, new)), items=500, wide=32, retry_after=retry_after).run().replies
    then = sum(22 <= at < 26 for at in replies) / 4
    assert then >= 0.7 * min(new, 30)


@pytest.mark.parametrize(
    ("most", "wide", "latency", "items"),
    [(8, 16, 0.3, 200), (8, 64, 0.3, 200), (4, 16, 1.0, 100), (20, 64, 0.5, 400), (3, 16, 0.1, 200)],
)
def test_a_limit_of_the_concurrency(most: int, wide: int, latency: float, items: int) -> None:
    seconds, refused, _ = Stage(slots(most), wide=wide, latency=latency, items=items).run()
    assert seconds <= 1.3 * items * latency / most + 1
    assert refused <= 0.1 * items


@pytest.mark.parametrize(("share", "wide"), [(0.02, 64), (0.05, 16), (0.05, 256), (0.05, 1000), (0.1, 256)])
def test_refusals_by_chance_hardly_slow_it_down(share: float, wide: int) -> None:
    calm = Stage(noise(0.0), items=3000, wide=wide).run().seconds
    assert Stage(noise(share), items=3000, wide=wide).run().seconds <= 1.6 * calm + 1.5


@pytest.mark.parametrize("wide", [1, 4, 16, 64, 256])
def test_a_server_that_refuses_nothing_is_not_slowed_down(wide: int) -> None:
    outcome = Stage(noise(0.0), items=wide, wide=wide, latency=0.2).run()
    assert outcome.seconds < 0.27


def test_requests_rest_for_a_retry_after() -> None:
    control = Control()
    for now in (0.0, 0.1):
        number = control.send(now, waited=False)
        control.refuse(number, now, now, 0, 60.0)
    assert control.delay(0.2, 0) == pytest.approx(59.9)
    assert control.delay(60.2, 0) == 0


def test_refused_connections_halve_the_concurrency_once_a_round_trip() -> None:
    control = Control()
    for _ in range(4):
        control.send(0.0, waited=False)
    assert control.delay(0.0, 3) == 0
    for left in (3, 2, 1, 0):
        control.fail_to_connect(0.0, 0.01, left)
    assert [control.delay(0.02, opened) for opened in (0, 1, 2)] == [0, 0, float("inf")]
    sent = control.send(0.02, waited=False)
    control.succeed(sent, 0.3, 1)
    assert control.delay(0.3, 2) == 0  # one more for each success


def test_a_long_latency_and_errors_of_the_server_change_nothing() -> None:
    control = Control()
    sent = [control.send(0.0, waited=False) for _ in range(4)]
    for number in sent:
        control.succeed(number, 500.0, 3)
    assert control.delay(500.0, 3) == 0
    assert control.rate is None
