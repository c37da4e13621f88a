"""Models that differ in everything unknown to a quote: answer length, quality, speed and price."""

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import Any

from fusion import ModelInfo, Price, Request, Say, ScriptedModel, Usage
from fusion.core.errors import BadResponseError, RateLimitError

__all__ = ["Behaviour", "cast"]

_WORDS = ("harbour", "invoice", "amount", "of", "the", "and", "paid", "by", "quay", "crane", "for", "each", "April")


class Behaviour:
    """The behaviour of one model in one run. The quote reads none of it."""

    def __init__(self, random: Random, lengths: Sequence[int]) -> None:
        self.random = random
        self.lengths = lengths
        self.accepts = random.uniform(0.5, 1.0)
        self.agrees = random.uniform(0.4, 0.95)
        self.misses_shape = random.choice([0.0, 0.0, 0.02, 0.1])
        self.refuses = random.choice([0.0, 0.0, 0.03, 0.1])
        self.breaks = random.choice([0.0, 0.0, 0.0, 0.01])
        self.parts = random.random()
        self.tokens = random.uniform(0.85, 1.25)
        self.slow = random.uniform(0.0, 0.02)
        self.thinks = 0

    def __call__(self, request: Request) -> Any:
        name = request.key.stage if request.key else ""
        if self.random.random() < self.refuses:
            return RateLimitError(f"{name}: too many requests")
        if self.random.random() < self.breaks:
            return Say(pieces=["half of"], error=BadResponseError("the stream broke off"))
        text = self._said(request)
        taken = sum(len(message.content.encode()) for message in request.messages) / 4
        thought = min(round(self.random.expovariate(1) * self.thinks), request.max_tokens // 2)
        room = 4 * (request.max_tokens - thought)
        cut = len(text) > room
        text = text[:room]
        usage = Usage(input=round(taken * self.tokens), output=min(len(text) // 4 + 1 + thought, request.max_tokens))
        delay = self.slow * self.random.uniform(0.5, 1.5)
        return Say(text, delay=delay, usage=usage, finish_reason="length" if cut else "stop")

    def _said(self, request: Request) -> str:
        if request.json_schema is None:
            size = 4 * self.random.choice(self.lengths)
            right = self.random.random() < self.agrees
            return f"{self._words(size)}\nAnswer: {7 if right else self.random.randint(10, 99)}"
        if self.random.random() < self.misses_shape:
            return f"Here is what you asked for: {self._words(200)}"
        return json.dumps(self._data("", request.json_schema, request.json_schema))

    def _words(self, size: int) -> str:
        text = " ".join(self.random.choices(_WORDS, k=max(size // 6, 1)))
        return text[: max(size, 1)] or "a"

    def _data(self, name: str, schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Any:
        if name == "verdict":
            others = [one for one in schema["enum"] if one != "accept"]
            return "accept" if self.random.random() < self.accepts else self.random.choice(others)
        if name == "number":
            self._number += 1
            return self._number
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                return {key: self._data(key, one, whole) for key, one in schema["properties"].items()}
            case "array":
                return [self._data(name, schema["items"], whole) for _ in range(self._count(name, schema))]
            case "string":
                return self._words(min(round(self.random.lognormvariate(4.4, 0.7)), schema.get("maxLength", 400)))
            case "boolean":
                return self.random.random() < 0.5
        low, high = schema.get("minimum", 0), schema.get("maximum", 100)
        drawn = self.random.uniform(low, high)
        return round(drawn) if schema["type"] == "integer" else round(drawn, 2)

    def _count(self, name: str, schema: Mapping[str, Any]) -> int:
        self._number = 0
        least, most = schema.get("minItems", 0), schema.get("maxItems", 8)
        if name == "subtasks":
            return max(1, round(self.parts * most))
        if name == "verdicts":
            return int(most // 2)
        if name in ("needs", "capabilities"):
            return 0
        return int(max(least, min(self.random.choice([0, 0, 1, 2, 3, 5]), most)))


def cast(seed: str, lengths: Sequence[Sequence[int]]) -> dict[str, ScriptedModel]:
    """Return a model for each role, expensive and cheap, with the answer lengths of a real one on one task."""
    random = Random(seed)
    frontier = math.exp(random.uniform(math.log(1.0), math.log(20.0)))
    cheaper = math.exp(random.uniform(math.log(1.0), math.log(30.0)))
    dollars = {"frontier": frontier, "bulk": frontier / cheaper, "second": frontier / cheaper}
    return {role: _model(role, usd, random, random.choice(lengths)) for role, usd in dollars.items()}


def _model(role: str, usd: float, random: Random, lengths: Sequence[int]) -> ScriptedModel:
    behaviour = Behaviour(Random(random.random()), lengths)
    effort = "medium" if role == "frontier" and random.random() < 0.25 else None
    behaviour.thinks = 400 if effort else 0
    output = usd * random.choice([3, 4, 5, 8])
    price = Price(input=Decimal(str(round(usd, 4))) / 1_000_000, output=Decimal(str(round(output, 4))) / 1_000_000)
    info = ModelInfo(
        id=f"scripted/{role}", provider="scripted", price=price, price_source="scripted", json_schema=True,
        context=random.choice([32_000, 128_000, 400_000]), effort=effort,
    )  # fmt: skip
    return ScriptedModel(behaviour, info=info, respect_limit=False)
