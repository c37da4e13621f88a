"""Names: pipelines become tools under names that every MCP client takes."""

import re
from collections.abc import Iterable
from typing import Final

from fusion.server.catalog import PREFIX, ServedPipeline

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST: Final = 48
"""Characters of a name: hosts put the name of the server before it, and models take 64 in all."""


def tools_of(served: Iterable[ServedPipeline]) -> dict[str, ServedPipeline]:
    """Return pipelines by the names of their tools. Of two with one name, the later gets a number."""
    found: dict[str, ServedPipeline] = {}
    for one in served:
        found[_free(tool_name(one.name), found)] = one
    return found


def tool_name(served: str) -> str:
    """Return the name of a tool: letters, digits, _ and - of the name of a pipeline.

    >>> tool_name("fusion/plan-execute-review"), tool_name("team.legal/check contract")
    ('plan-execute-review', 'team_legal_check_contract')
    """
    return _FOREIGN.sub("_", served.removeprefix(PREFIX)).strip("_")[:_LONGEST] or "pipeline"


def _free(name: str, taken: Iterable[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name[: _LONGEST - 4]}_{number}"
    return free
