"""Results: the outcomes of a benchmark by item and arm, with versions and hashes to reproduce them."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from fusion.core.errors import UsageError
from fusion.core.paths import read_text
from fusion.core.result import Times
from fusion.core.types import Failure, Money, Usage, Value

ArmKind = Literal["pipeline", "model", "python", "outputs", "baseline"]

_MAX_BYTES = 500_000_000


class ItemRecord(Value):
    """One item of a benchmark. `cluster` names its group, such as a document; `side` is its part of the split."""

    id: str
    task_set: str
    cluster: str | None = None
    side: Literal["dev", "test"] = "test"
    prompt: str = ""


class ArmRecord(Value):
    """One arm: its kind, its models, the source of their prices, and the SHA-256 of its files.

    An arm of kind `baseline` is made by the benchmark for comparison. One `of` an arm is that arm `without` the
    review by a stage.
    """

    name: str
    kind: ArmKind
    models: tuple[str, ...] = ()
    price_source: str = "unknown"
    sha256: str = ""
    of: str = ""
    without: str = ""


def total_cost(costs: Iterable[Money | None]) -> Money | None:
    """Return the sum in dollars; None if a part of it is unknown."""
    known = list(costs)
    return None if None in known else sum((cost for cost in known if cost is not None), Money(0))


class Spending(Value):
    """Calls, tokens and cost of one model. `cost` is in dollars, None where a part of it is unknown.

    `charged` is the part of the cost that is an upper bound: failed attempts that the provider may bill. `cached` is
    the amount that the provider's prompt caches saved.
    """

    model: str
    calls: int = 0
    usage: Usage = Usage()
    cost: Money | None = None
    charged: Money = Money(0)
    cached: Money = Money(0)

    def __add__(self, other: "Spending") -> "Spending":
        return Spending(
            model=self.model,
            calls=self.calls + other.calls,
            usage=self.usage + other.usage,
            cost=total_cost((self.cost, other.cost)),
            charged=self.charged + other.charged,
            cached=self.cached + other.cached,
        )


class Reviewed(Value):
    """The first verdict of a reviewer on a result: on an item, or on the whole answer.

    `before` scores the result as it was worked, `after` the one that was passed on in its place, 0 if none was; None
    where no gold value tells.
    """

    item: int | None = None
    tier: int | None = None
    verdict: str
    by: str = ""
    confidence: float | None = None
    before: float | None = None
    after: float | None = None


class Reviewing(Value):
    """The review by one stage in an answer: its verdicts, and the cost and seconds of its calls.

    A stage that only reviews counts all its calls, also those for revisions; tiers count the calls of their judges.
    """

    stage: str
    kind: str
    calls: int = 0
    cost: Money | None = Money(0)
    seconds: float = 0.0
    verdicts: tuple[Reviewed, ...] = ()


class AnswerKey(Value):
    """The arm, item and epoch of an answer."""

    arm: str
    item: str
    epoch: int = 0


class Response(Value):
    """The response of an arm to an item, with its cost.

    `cost` is in dollars, None where a part of it is unknown. `latency` is in seconds, 0 for recorded responses;
    `times` splits it by cause, None where that is unknown. Reused calls count in both with the time that they took.
    `spent` holds cost and tokens by model. `escalated` tells if the strongest model was called, None for an arm with
    one model. `delegated` is the share of calls to the other models. `reused` calls were made for another arm or
    by an earlier start; they count in cost and tokens like new ones. `reviews` are those of the stages that review.
    `cut` counts the calls that reached their output limit.
    """

    text: str = ""
    cost: Money | None = None
    usage: Usage = Usage()
    calls: int = 0
    latency: float = Field(default=0.0, ge=0)
    times: Times | None = None
    served: tuple[str, ...] = ()
    spent: tuple[Spending, ...] = ()
    escalated: bool | None = None
    delegated: float | None = None
    reused: int = 0
    reviews: tuple[Reviewing, ...] = ()
    cut: int = 0
    failure: Failure | None = None


class Outcome(Response, AnswerKey):
    """A scored response. A failed one scores 0 and its cost counts. `answer` is extracted from the text."""

    score: float = Field(default=0.0, ge=0, le=1)
    measures: dict[str, float] = Field(default_factory=dict)
    answer: str | None = None
    seed: int = 0

    @property
    def timed(self) -> bool:
        """True for an answer with a latency of its own; older versions left out the time of reused calls."""
        return self.failure is None and self.latency > 0 and (self.times is not None or not self.reused)

    @model_validator(mode="after")
    def _failed_is_wrong(self) -> "Outcome":
        if self.failure is not None and self.score:
            raise ValueError("an outcome with a failure is worth 0")
        return self


class Paid(Value):
    """New spend: reused calls are left out. `usd` is None where a part of it is unknown."""

    usd: Money | None
    tokens: int
    calls: int


class Results(Value):
    """All results of a benchmark. A missing outcome of an arm on an item counts as failed.

    `stopped` is the reason for fewer items than planned, such as the budget. `paid` covers all starts and judges.
    """

    name: str
    started: datetime
    seconds: float = 0.0
    command: str = ""
    margin: float = 0.01
    resamples: int = 10_000
    seeds: tuple[int, ...] = (0,)
    epochs: int = 1
    versions: dict[str, str] = Field(default_factory=dict)
    hashes: dict[str, str] = Field(default_factory=dict)
    licences: dict[str, str] = Field(default_factory=dict)
    baselines: tuple[str, ...] = ("singles", "self_consistency", "random_mixing", "oracle")
    notes: tuple[str, ...] = ()
    stopped: str = ""
    gate: str = ""
    paid: Paid | None = None
    items: tuple[ItemRecord, ...] = Field(min_length=1)
    arms: tuple[ArmRecord, ...] = Field(min_length=1)
    outcomes: tuple[Outcome, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> "Results":
        items, arms = {item.id for item in self.items}, {arm.name for arm in self.arms}
        for what, names, given in (("item", items, self.items), ("arm", arms, self.arms)):
            if len(names) < len(given):
                raise ValueError(f"duplicate {what}")
        keys = [(one.arm, one.item, one.epoch) for one in self.outcomes]
        strange = next((key for key in keys if key[0] not in arms or key[1] not in items), None)
        if strange is not None:
            raise ValueError(
                f"an outcome of the arm {strange[0]!r} on the item {strange[1]!r}, which are not both listed"
            )
        if len(set(keys)) < len(keys):
            raise ValueError("duplicate outcome")
        return self

    @cached_property
    def by_arm(self) -> dict[str, dict[str, list[Outcome]]]:
        """Outcomes by arm and item."""
        found: dict[str, dict[str, list[Outcome]]] = {arm.name: {} for arm in self.arms}
        for one in self.outcomes:
            found[one.arm].setdefault(one.item, []).append(one)
        return found

    def jsonl(self) -> Iterator[str]:
        """Yield a line of JSON for each outcome, with the prompt of its item."""
        prompts = {item.id: json.dumps(item.prompt, ensure_ascii=False) for item in self.items}
        for one in self.outcomes:
            yield f'{one.model_dump_json()[:-1]},"prompt":{prompts[one.item]}}}'

    @classmethod
    def load(cls, path: Path | str) -> "Results":
        """Load results from a JSON file of any version. Raises UsageError if it holds none."""
        try:
            return cls.model_validate(_with_prompts_by_item(json.loads(read_text(Path(path), most=_MAX_BYTES))))
        except ValidationError as error:
            first: Any = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UsageError(f"{str(path)!r} holds no results: {where}: {first['msg']}") from error
        except ValueError as error:
            raise UsageError(f"{str(path)!r} holds no results: invalid JSON: {error}") from error


def _with_prompts_by_item(data: Any) -> Any:
    """Move prompts from outcomes, where older versions hold them, to items."""
    outcomes = data.get("outcomes") if isinstance(data, dict) else None
    if not outcomes or "prompt" not in outcomes[0]:
        return data
    prompts = {one["item"]: one.pop("prompt", "") for one in outcomes}
    return {**data, "items": [{"prompt": prompts.get(item["id"], ""), **item} for item in data["items"]]}
