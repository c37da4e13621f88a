"""Runs of a store as the JSON data that the page shows."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from fusion.client.history import History, Which
from fusion.client.history.run_types import RunSummary
from fusion.core.errors import UsageError
from fusion.server.page.run import RunView
from fusion.server.runs.progress import Progress
from fusion.store.base import Store
from fusion.store.lookup import find_run

_AT_ONCE: Final = 200
_TICK: Final = timedelta(microseconds=1)


class Runs:
    """Reads the runs of a store for the page. Every method blocks; ids may be shortened as in the history."""

    def __init__(self, store: Store, live: Progress | None = None) -> None:
        self.store = store
        self.live = live or Progress()
        self.history = History(store)

    def page(self, which: Which, *, words: str = "", after: str | None = None, limit: int = 50) -> dict[str, Any]:
        """Return runs, newest first, and the cursor of the next page in `next`.

        Each of `words` is in the id, the pipeline, the tags or the failure of a run. Raises UsageError for a cursor
        that no page gave.
        """
        found = list(islice(self._matching(which, words.casefold().split(), after), limit + 1))
        more = found[limit - 1] if len(found) > limit else None
        return {
            "runs": [one.model_dump(mode="json") for one in found[:limit]],
            "next": None if more is None else f"{more.started.isoformat()} {more.run_id}",
        }

    def _matching(self, which: Which, words: Sequence[str], after: str | None) -> Iterator[RunSummary]:
        until, last = _cursor(after)
        which = which.copy()
        while True:
            if until is not None:
                which["before"] = min(filter(None, (which.get("before"), until + _TICK)))
            some = self.history.list(limit=_AT_ONCE, **which)
            for one in some:
                if (until is None or (one.started, one.run_id) < (until, last)) and _has(one, words):
                    yield one
            if len(some) < _AT_ONCE:
                return
            until, last = some[-1].started, some[-1].run_id

    def diff(self, a: str, b: str) -> dict[str, Any]:
        """Return the differences of two runs in `runs`, or of two maps in `maps`. Raises UsageError."""
        of_maps = [self.history.map_id(given) for given in (a, b)]
        if None not in of_maps:
            return {"maps": self.history.diff_maps(a, b)}
        if of_maps != [None, None]:
            raise UsageError("compare two maps, or two runs")
        found = self.history.diff(a, b)
        return {"runs": found, "counts": found.counts}

    def view(self, run_id: str) -> RunView:
        """Return the view of a run. Raises UsageError if there is none."""
        return RunView(self.store, find_run(self.store, run_id), self.live)


def _cursor(given: str | None) -> tuple[datetime | None, str]:
    if given is None:
        return None, ""
    moment, _, run_id = given.partition(" ")
    try:
        return datetime.fromisoformat(moment), run_id
    except ValueError:
        raise UsageError(f"no page of runs begins after {given!r}; give the `next` of a page") from None


def _has(run: RunSummary, words: Sequence[str]) -> bool:
    failure = "" if run.failure is None else f"{run.failure.reason} {run.failure.message}"
    tags = " ".join(f"{name}={value}" for name, value in run.tags.items())
    text = " ".join((run.run_id, run.pipeline, run.profile, tags, failure)).casefold()
    return all(word in text for word in words)
