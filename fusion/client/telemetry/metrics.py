"""Metrics: runs, calls, tokens, dollars and seconds.

The sums are kept here and read when they are exported, which costs a call less than an instrument does.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.util.types import AttributeValue

from fusion import __version__
from fusion.client.telemetry import names
from fusion.client.telemetry.values import encodable, model_name
from fusion.core.types import Money, Usage

_NOTHING = Usage()


class _Calls(NamedTuple):
    """Kinds of calls that are summed together: by model, and by how they ended."""

    model: str
    status: str
    reason: str = ""

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        model = model_name(self.model)
        reason = {names.ERROR: self.reason} if self.reason else {}
        return {names.PROVIDER: model.provider, names.REQUEST_MODEL: model.name, names.STATUS: self.status, **reason}


class _Sums:
    """Sums over calls."""

    __slots__ = ("cost", "count", "input", "output", "seconds")

    def __init__(self) -> None:
        self.count = self.input = self.output = 0
        self.seconds = self.cost = 0.0


class Metrics:
    """The instruments of one meter provider. Any thread may count."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter("fusion", __version__)
        self._lock = threading.Lock()
        self._calls: dict[_Calls, _Sums] = {}
        self._runs: dict[tuple[str, str], int] = {}
        self._duration = meter.create_histogram(names.METRIC_RUN_DURATION, "s", "Durations of runs")
        for name, unit, description, read in (
            (names.METRIC_RUNS, "{run}", "Runs that have ended", self._read_runs),
            (names.METRIC_CALLS, "{call}", "Calls that have ended", self._reader(lambda one: one.count)),
            (
                names.METRIC_CALLS_DURATION,
                "s",
                "Sum of the latencies of replies",
                self._reader(lambda one: one.seconds),
            ),
            (
                names.METRIC_COST,
                "{USD}",
                "Dollars spent, where the price is known",
                self._reader(lambda one: one.cost),
            ),
            (names.METRIC_TOKENS, "{token}", "Tokens of calls", self._read_tokens),
        ):
            meter.create_observable_counter(name, callbacks=[read], unit=unit, description=description)

    def run_ended(self, pipeline: str, status: str, seconds: float) -> None:
        """Count a run."""
        pipeline = encodable(pipeline)
        with self._lock:
            self._runs[pipeline, status] = self._runs.get((pipeline, status), 0) + 1
        self._duration.record(seconds, {names.PIPELINE: pipeline, names.STATUS: status})

    def call_ended(
        self,
        model: str,
        status: str,
        *,
        reason: str = "",
        latency: float = 0.0,
        cost: Money | None = None,
        usage: Usage = _NOTHING,
        calls: int = 1,
    ) -> None:
        """Count a call, or with `calls=0` an attempt of one that is charged."""
        with self._lock:
            kind = _Calls(model, status, reason)
            sums = self._calls.get(kind)
            if sums is None:
                sums = self._calls[kind] = _Sums()
            sums.count += calls
            sums.seconds += latency
            sums.input += usage.input
            sums.output += usage.output
            if cost is not None:
                sums.cost += float(cost)

    def _reader(self, value: Callable[[_Sums], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [Observation(value(sums), calls.attributes) for calls, sums in self._snapshot()]

    def _read_tokens(self, _: CallbackOptions) -> Iterator[Observation]:
        for calls, sums in self._snapshot():
            yield Observation(sums.input, {**calls.attributes, names.TOKENS_TYPE: "input"})
            yield Observation(sums.output, {**calls.attributes, names.TOKENS_TYPE: "output"})

    def _read_runs(self, _: CallbackOptions) -> Iterator[Observation]:
        with self._lock:
            runs = list(self._runs.items())
        for (pipeline, status), count in runs:
            yield Observation(count, {names.PIPELINE: pipeline, names.STATUS: status})

    def _snapshot(self) -> list[tuple[_Calls, _Sums]]:
        with self._lock:
            return list(self._calls.items())


metrics_of: Callable[[MeterProvider], Metrics] = functools.lru_cache(maxsize=8)(Metrics)
"""Returns the instruments of a meter provider: each of them is made once."""
