"""Fusion with scripted models behind every profile: `python -m tests.answering run …`, or a script of Python."""

import functools
import json
import runpy
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any
from unittest.mock import patch

from fusion import Request, ScriptedModel
from fusion.client.client import Fusion
from fusion.core.params import NO_MODEL
from fusion.models.batches.base import BatchDoor, BatchState, Ended, Entry
from fusion.models.profiles import load_profiles
from tests.conftest import frontier, said

# The notes of the README and of the docs, and the right answer to each.
READINGS = {
    "Nordic Paper": 1180.50,
    "Halvorsen Print": 640.00,
    "Bakke Motor": 2315.75,
    "Fjord Catering": 498.20,
}


def answer(request: Request) -> Any:
    """A plan, a verdict, the reading of an invoice's note as data or as text, of a letter, or the merged answer."""
    words = said(request)
    if "You plan how to answer" in words:
        return {"sections": ["all"], "how": "none", "find": "supplier and amount", "other": None}
    if "You are" in words and "You are the" in words:
        return frontier()(request)
    found = [{"supplier": name, "amount": amount} for name, amount in READINGS.items() if name in words]
    if "team" in json.dumps(request.json_schema):
        sure = {"sure": 0.4 if "Ticket 1:" in words else 0.9} if "sure" in json.dumps(request.json_schema) else {}
        doubted = request.key is not None and request.key.step == "tier-1-b" and "Ticket 1:" in words
        return {"team": "technical" if doubted else "billing", **sure}
    if "faults" in json.dumps(request.json_schema):
        return {"faults": [] if "Answer: 24.15" in words else ["It lacks the sum."]}
    if "urgent" in json.dumps(request.json_schema):
        firm = found[0]["supplier"] if found else "none"
        return {"from": {"name": "Ada", "firm": firm}, "about": "an invoice", "urgent": False, "dates": []}
    if "supplier" in json.dumps(request.json_schema):
        return found[0]
    return "; ".join(f"{one['supplier']} {one['amount']:.2f}" for one in found) or "Hello.\nAnswer: 24.15"


class InBatches(BatchDoor):
    """The batch API of a scripted model, whose batches end at once."""

    most_rows = 1000
    most_bytes = 10_000_000

    def __init__(self, model: ScriptedModel) -> None:
        self.info = model.info
        self._model = model

    def size(self, entry: Entry) -> int:
        return len(said(entry.request))

    async def submit(self, entries: Sequence[Entry], name: str) -> str:
        return f"batch_{name[-6:]}"

    async def find(self, name: str, custom_ids: Collection[str]) -> str | None:
        return None

    async def state(self, batch_id: str) -> BatchState:
        return BatchState(status="ended")

    async def results(self, batch_id: str, requests: Mapping[str, Request]) -> AsyncIterator[Ended]:
        for custom_id, request in requests.items():
            reply = await self._model.complete(request)
            yield Ended(custom_id, reply.model_copy(update={"cost": None}), None)

    async def cancel(self, batch_id: str) -> None:
        return None


class Answering(ScriptedModel):
    """A scripted model with a batch API."""

    def batch_door(self) -> BatchDoor:
        return InBatches(self)


def models() -> dict[str, ScriptedModel]:
    """A scripted model under the id of every model that a profile names."""
    ids = {model for profile in load_profiles().values() for chain in profile.roles.values() for model in chain}
    return {model: Answering(answer, name=model) for model in ids - {NO_MODEL}}


def main() -> None:
    """Do what the command line says; a first word that ends in .py is a script."""
    made = functools.partialmethod(Fusion.__init__, models=models())
    with patch.object(Fusion, "__init__", made):
        if sys.argv[1:] and sys.argv[1].endswith(".py"):
            runpy.run_path(sys.argv[1], run_name="__main__")
        else:
            from fusion.cli.app import main as command

            command()


if __name__ == "__main__":
    main()
