"""Tally: counts of runs and requests since the start of the server, for its metrics."""

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from fusion.core.result import Result


@dataclass(slots=True)
class Tally:
    """Counts since the start of the server. `runs` are by pipeline and status, `requests` by path and HTTP status."""

    runs: Counter[tuple[str, str]] = field(default_factory=Counter)
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    reused: Counter[str] = field(default_factory=Counter)
    usd: Decimal = Decimal(0)
    unknown_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    def count(self, result: Result) -> None:
        """Count a run that has ended."""
        self.runs[result.pipeline, result.status] += 1
        self.usd += result.cost.usd
        self.unknown_calls += result.cost.unknown_calls
        self.input_tokens += result.usage.input
        self.output_tokens += result.usage.output
        self.seconds += result.seconds
