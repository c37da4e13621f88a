"""Places of calls in batches: the decisions by which a resumed run joins a batch again."""

from typing import Any, Final, NamedTuple

from fusion.core.budget import Amount
from fusion.core.types import CallKey, Money

_ENTERED: Final = "batch "
_KNOWN: Final = "batch-id "

Place = tuple[str, int | None, str]
"""Stage, item and name of a decision."""


class BatchPlace(NamedTuple):
    """The place of a call in a batch, written before the batch is submitted.

    `name` is our name of the batch, and `row` that of the call in it. `attempt` is the attempt in the ledger of the
    run `run_id`, by session and number, with the worst case that is reserved for it. `at` is in seconds since 1970.
    `batch_id` is the provider's id of the batch, written before the batch is first looked at.
    """

    run_id: str
    name: str
    row: str
    at: float
    attempt: tuple[int, int] | None = None
    usd: Money | None = None
    tokens: int = 0
    batch_id: str | None = None

    @property
    def worst(self) -> Amount:
        """The reserved amount."""
        return Amount(self.usd, self.tokens)

    def decision(self, key: CallKey) -> tuple[Place, Any]:
        """Return the place and the value of the decision that keeps it."""
        usd = None if self.usd is None else str(self.usd)
        value = [self.run_id, self.row, self.at, self.attempt, usd, self.tokens]
        return (key.stage, key.item, f"{_ENTERED}{self.name} {_of(key)}"), value

    def id_decision(self, key: CallKey) -> tuple[Place, Any]:
        """Return the place and the value of the decision that keeps the provider's id."""
        return (key.stage, key.item, f"{_KNOWN}{self.name} {_of(key)}"), self.batch_id


class BatchPlaces:
    """The places of calls in batches, by call, in the order in which they were written."""

    def __init__(self) -> None:
        self._places: dict[Place, list[BatchPlace]] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    def of(self, key: CallKey) -> list[BatchPlace]:
        """Return the places of a call, the last one last."""
        return self._places.get((key.stage, key.item, _of(key)), [])

    def enter(self, key: CallKey, place: BatchPlace) -> None:
        """Add a place, or replace that in the same batch."""
        self._put((key.stage, key.item, _of(key)), place)

    def load(self, place: Place, value: Any) -> None:
        """Take up a decision of a run that is about a batch; others are passed over."""
        stage, item, name = place
        if name.startswith(_ENTERED):
            batch, of = name[len(_ENTERED) :].split(" ", 1)
            run_id, row, at, attempt, usd, tokens = value
            known = None if attempt is None else (attempt[0], attempt[1])
            cost = None if usd is None else Money(usd)
            self._put((stage, item, of), BatchPlace(run_id, batch, row, at, known, cost, tokens))
        elif name.startswith(_KNOWN):
            batch, of = name[len(_KNOWN) :].split(" ", 1)
            for one in self._places.get((stage, item, of), []):
                if one.name == batch:
                    self._put((stage, item, of), one._replace(batch_id=value))

    def _put(self, call: Place, place: BatchPlace) -> None:
        found = self._places.setdefault(call, [])
        found[:] = [place if one.name == place.name else one for one in found]
        if place not in found:
            found.append(place)


def _of(key: CallKey) -> str:
    return f"{key.step} {key.digest}"
