"""Results: what a benchmark found, item by item and arm by arm, with all that is needed to find it again."""

import json
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from fusion.core.errors import UsageError
from fusion.core.paths import read_text
from fusion.core.types import Failure, Money, Usage, Value

ArmKind = Literal["pipeline", "model", "python", "outputs", "baseline"]

_MOST = 500_000_000


class ItemRecord(Value):
    """One item that every arm was asked. `cluster` is what it belongs to, `side` where the split puts it.

    `prompt` is what all of them were given, as the task set has it.
    """

    id: str
    task_set: str
    cluster: str | None = None
    side: Literal["dev", "test"] = "test"
    prompt: str = ""


class ArmRecord(Value):
    """One contestant: what it is, the models it may use, where its prices come from, the digest of its files.

    A `baseline` is no contestant: it is what the others are held against.
    """

    name: str
    kind: ArmKind
    models: tuple[str, ...] = ()
    price_source: str = "unknown"
    sha256: str = ""


class Spending(Value):
    """What was spent on one model; `cost` in dollars, None where a part of it is unknown.

    `charged` is the part of it that is an upper bound: for attempts that gave no usable answer and may be billed.
    """

    model: str
    calls: int = 0
    usage: Usage = Usage()
    cost: Money | None = None
    charged: Money = Money(0)

    def __add__(self, other: "Spending") -> "Spending":
        known = self.cost is not None and other.cost is not None
        return Spending(
            model=self.model,
            calls=self.calls + other.calls,
            usage=self.usage + other.usage,
            cost=(self.cost or Money(0)) + (other.cost or Money(0)) if known else None,
            charged=self.charged + other.charged,
        )


class Outcome(Value):
    """What one arm made of one item in one epoch. A failed one is worth 0, and what it cost counts.

    `cost` is in dollars, None where a part of it is unknown. `escalated` says whether a stronger model was asked,
    None where the arm has none to ask; `delegated` is the share of its calls that went to others. `latency` is in
    seconds. `spent` is cost and tokens by model. `reused` calls were made for another arm, or before a kill, and are
    counted as if they had been made anew.
    """

    arm: str
    item: str
    epoch: int = 0
    score: float = Field(default=0.0, ge=0, le=1)
    measures: dict[str, float] = Field(default_factory=dict)
    answer: str | None = None
    text: str = ""
    cost: Money | None = None
    usage: Usage = Usage()
    calls: int = 0
    latency: float = Field(default=0.0, ge=0)
    served: tuple[str, ...] = ()
    seed: int = 0
    escalated: bool | None = None
    delegated: float | None = None
    spent: tuple[Spending, ...] = ()
    reused: int = 0
    failure: Failure | None = None

    @model_validator(mode="after")
    def _failed_is_wrong(self) -> "Outcome":
        if self.failure is not None and self.score:
            raise ValueError("an outcome with a failure is worth 0")
        return self


class Paid(Value):
    """What a benchmark drew on its budget over all its starts: a call that arms share once, and those of judges."""

    usd: Money
    tokens: int
    calls: int


class Results(Value):
    """A whole benchmark. Every arm is held to every item: one without an outcome counts as failed.

    `stopped` says why fewer items than planned were asked, such as the budget.
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
    def _hangs_together(self) -> "Results":
        items, arms = {item.id for item in self.items}, {arm.name for arm in self.arms}
        for what, names, given in (("item", items, self.items), ("arm", arms, self.arms)):
            if len(names) < len(given):
                raise ValueError(f"an {what} stands in it twice")
        keys = [(one.arm, one.item, one.epoch) for one in self.outcomes]
        strange = next((key for key in keys if key[0] not in arms or key[1] not in items), None)
        if strange is not None:
            raise ValueError(f"an outcome of the arm {strange[0]!r} on the item {strange[1]!r}, which is not in it")
        if len(set(keys)) < len(keys):
            raise ValueError("an outcome stands in it twice")
        return self

    @cached_property
    def by_arm(self) -> dict[str, dict[str, list[Outcome]]]:
        """The outcomes of each arm by item."""
        found: dict[str, dict[str, list[Outcome]]] = {arm.name: {} for arm in self.arms}
        for one in self.outcomes:
            found[one.arm].setdefault(one.item, []).append(one)
        return found

    def jsonl(self) -> Iterator[str]:
        """One line of JSON for each outcome, with the prompt of its item."""
        prompts = {item.id: json.dumps(item.prompt, ensure_ascii=False) for item in self.items}
        for one in self.outcomes:
            yield f'{one.model_dump_json()[:-1]},"prompt":{prompts[one.item]}}}'

    @classmethod
    def load(cls, path: Path | str) -> "Results":
        """The results of a JSON file, also of one with a prompt in every outcome. Raises UsageError for another."""
        try:
            return cls.model_validate(_with_prompts_by_item(json.loads(read_text(Path(path), most=_MOST))))
        except ValidationError as error:
            first: Any = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UsageError(f"{str(path)!r} holds no results: {where}: {first['msg']}") from error
        except ValueError as error:
            raise UsageError(f"{str(path)!r} holds no results: it is no JSON: {error}") from error


def _with_prompts_by_item(data: Any) -> Any:
    """Results as they are written now; in older ones every outcome holds its item's prompt."""
    outcomes = data.get("outcomes") if isinstance(data, dict) else None
    if not outcomes or "prompt" not in outcomes[0]:
        return data
    prompts = {one["item"]: one.pop("prompt", "") for one in outcomes}
    return {**data, "items": [{"prompt": prompts.get(item["id"], ""), **item} for item in data["items"]]}
