"""Ctrl-C at any moment, also while a run is being started."""

import signal

import pytest

from fusion.cli.exits import Interrupted
from fusion.cli.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_while_a_run_is_started_is_kept_until_the_run_can_be_stopped(number: int) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        interrupts.hold()
        signal.raise_signal(number)
        with pytest.raises(Interrupted):
            interrupts.release()
    assert signal.getsignal(number) is before


def test_without_a_signal_nothing_is_kept_and_the_next_one_is_raised_at_once() -> None:
    with Interrupts() as interrupts:
        interrupts.hold()
        interrupts.release()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
