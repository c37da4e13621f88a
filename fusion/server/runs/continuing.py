"""Continuing: a request that ends in results of tools goes on with the run that asked for them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fusion.core.result import run_of_call
from fusion.server.runs.messages import text_of


class Results(NamedTuple):
    """Results of the tools that a run asked for, by the ids of the calls."""

    run_id: str
    texts: Mapping[str, str]


def results_of(messages: Sequence[Mapping[str, Any]]) -> Results | None:
    """Return the results that messages end in; None without any, and for those of more than one run."""
    found: dict[str, str] = {}
    runs: set[str] = set()
    for message in reversed(messages):
        if message.get("role") != "tool":
            break
        call = str(message.get("tool_call_id"))
        run_id = run_of_call(call)
        if run_id is None:
            return None
        runs.add(run_id)
        found[call] = text_of(message.get("content"))
    return Results(runs.pop(), found) if len(runs) == 1 else None
