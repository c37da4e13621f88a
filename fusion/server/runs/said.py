"""Said: the beginnings of answers that were sent before their runs were stopped."""

import time
from typing import Final

from fusion.store.base import Store
from fusion.store.rows import Decision

_PREFIX: Final = "said "
Said = str | None
"""Text that was sent before a stop; None if it is unknown, since the server died."""


def keep_said(store: Store, run_id: str, text: Said) -> None:
    """Keep the part of an answer that was sent before the run was stopped."""
    store.put(Decision(run_id, "", None, f"{_PREFIX}{time.time_ns()}", {"text": text}))


def said_of(store: Store, run_id: str) -> list[Said]:
    """Return the parts that were sent before each stop of a run, in order."""
    store.flush()
    found = (one.value for one in store.decisions(run_id) if one.name.startswith(_PREFIX) and not one.stage)
    return [one["text"] for one in found]
