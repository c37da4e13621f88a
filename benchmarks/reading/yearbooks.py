"""Scripted models for the yearbooks: a planner that knows the questions, a reader that knows the facts."""

import json
import re
from collections.abc import Callable

from fusion.core.types import Request

FACTS = {
    "ships that called in 2024": r"and in 2024 it was (\d+)",
    "berths in use": r"Of its berths, (\d+) are in use",
    "people employed": r"It employs (\d+) people",
    "crowns that repairs to the quay wall cost in 2024": r"cost (\d+) crowns in 2024",
    "cranes on the quays": r"There are (\d+) cranes on the quays",
    "crowns that a ship of middle size pays for a call": r"pays a fee of (\d+) crowns a call",
}
"""Pattern of the sentence that states a fact, by its name in the questions."""

_HOW = {"Add up": "sum", "difference": "difference", "highest": "highest", "lowest": "lowest"}


def planner_of(question: str) -> Callable[[Request], str]:
    """Return the script of a planner: places and facts as the question names them; anything else is merged."""
    places = re.findall(r"\b[A-Z][a-z]+\b", question.partition(":")[0].partition("look at")[0].partition(" take ")[0])
    asked = sorted((question.find(fact), fact) for fact in FACTS if fact in question)
    how = next(way for words, way in _HOW.items() if words in question)
    plan = {
        "sections": [place for place in places if place not in ("Add", "What", "Of", "Give")],
        "how": how,
        "find": f"the number of {asked[0][1]}",
        "other": f"the number of {asked[1][1]}" if len(asked) > 1 else None,
    }
    return lambda request: json.dumps(plan) if "sections" in _properties(request) else "merged"


def read_section(request: Request) -> str:
    """Return what a section says of the facts that are asked for."""
    text = request.messages[-1].content
    asked = re.findall(r"(?:Find for .+?|And \"other\"): the number of (.+)", text)
    values = [re.search(FACTS[fact], text) for fact in asked]
    found = [None if value is None else int(value[1]) for value in values]
    return json.dumps(dict(zip(("value", "other"), found, strict=False)))


def _properties(request: Request) -> dict[str, object]:
    return dict((request.json_schema or {}).get("properties", {}))
