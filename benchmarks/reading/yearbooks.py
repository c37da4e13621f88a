"""Scripted models for the yearbooks: a planner that knows the questions, a reader that knows the facts."""

import json
import re

from fusion import ScriptedModel
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

_NO_PLACES = ("Add", "What", "Of", "Give")
_HOW = {"Add up": "sum", "difference": "difference", "highest": "highest", "lowest": "lowest"}


def plan_sections(request: Request) -> str:
    """Return the plan of a question: places and facts as it names them; "merged" to any other request."""
    if "sections" not in (request.json_schema or {}).get("properties", {}):
        return "merged"
    question = request.messages[-1].content.rpartition("The request: ")[2]
    begin = question.partition(":")[0].partition("look at")[0].partition(" take ")[0]
    places = [place for place in re.findall(r"\b[A-Z][a-z]+\b", begin) if place not in _NO_PLACES]
    asked = [fact for _, fact in sorted((question.find(fact), fact) for fact in FACTS if fact in question)]
    how = next(way for words, way in _HOW.items() if words in question)
    other = f"the number of {asked[1]}" if len(asked) > 1 else None
    return json.dumps({"sections": places, "how": how, "find": f"the number of {asked[0]}", "other": other})


def read_section(request: Request) -> str:
    """Return what a section says of the facts that are asked for."""
    text = request.messages[-1].content
    asked = re.findall(r"(?:Find for .+?|And \"other\"): the number of (.+)", text)
    values = [re.search(FACTS[fact], text) for fact in asked]
    found = [None if value is None else int(value[1]) for value in values]
    return json.dumps(dict(zip(("value", "other"), found, strict=False)))


def models() -> dict[str, ScriptedModel]:
    """Return the models of the suite `documents/scripted.yaml` by id."""
    scripts = {"planner": plan_sections, "reader": read_section, "single": "#### 0", "notes": "nothing"}
    return {f"scripted/{name}": ScriptedModel(script, name=f"scripted/{name}") for name, script in scripts.items()}
