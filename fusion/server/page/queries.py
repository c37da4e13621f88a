"""Queries: the parameters of the page's requests, read and checked."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, get_args

from starlette.requests import Request

from fusion.client.history import Which
from fusion.core.errors import close_names
from fusion.server.base import RefusedError
from fusion.store.rows import RunState

_STATES: Final = get_args(RunState)
_MOST: Final = 500


def which_of(request: Request) -> Which:
    """Return the filter of runs: `status` and `tag` may be repeated, `since` and `before` are times in ISO 8601."""
    query = request.query_params
    states: list[RunState] = [one for one in _STATES if one in query.getlist("status")]
    for name in query.getlist("status"):
        if name not in _STATES:
            raise _refused("status", f"unknown status {name!r}{close_names(name, _STATES)}")
    which: Which = {"status": states, "tags": _tags(query.getlist("tag")), "pipeline": query.get("pipeline") or None}
    which["since"], which["before"] = _moment(query, "since"), _moment(query, "before")
    return which


def number_of(request: Request, name: str, default: int, *, most: int = 2**53) -> int:
    """Return a whole number from 0 to `most`. Raises RefusedError."""
    given = request.query_params.get(name) or str(default)
    if not (given.isascii() and given.isdigit() and len(given) < 17 and int(given) <= most):
        raise _refused(name, f"expected a whole number up to {most:,}, found {given[:40]!r}")
    return int(given)


def limit_of(request: Request, default: int = 50) -> int:
    """Return the size of a page. Raises RefusedError."""
    return max(1, number_of(request, "limit", default, most=_MOST))


def required(request: Request, name: str) -> str:
    """Return a parameter that must be given. Raises RefusedError."""
    value = request.query_params.get(name)
    if not value:
        raise _refused(name, "this parameter is missing")
    return value


def _tags(given: list[str]) -> dict[str, str]:
    tags = {}
    for tag in given:
        name, equals, value = tag.partition("=")
        if not name or not equals:
            raise _refused("tag", f"expected NAME=VALUE, found {tag!r}")
        tags[name] = value
    return tags


def _moment(query: Mapping[str, str], name: str) -> datetime | None:
    given = query.get(name)
    if not given:
        return None
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise _refused(name, f"expected a time such as 2026-11-30T08:00:00Z, found {given!r}") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _refused(name: str, message: str) -> RefusedError:
    return RefusedError(f"{name}: {message}", param=name)
