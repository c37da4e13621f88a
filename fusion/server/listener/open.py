"""Open: the server whose page shows a run, found on a port or started here."""

import http.client
import logging
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from fusion.client.client import Fusion
from fusion.client.history import History
from fusion.core.config import Settings, secret
from fusion.core.errors import UsageError

_HOST: Final = "127.0.0.1"
_SECONDS: Final = 2.0


def place_of(history: History, given: str) -> str:
    """Return the place of a run or a map on the page. Raises UsageError for an id that means nothing."""
    map_id = history.map_id(given)
    return f"/map/{quote(map_id, safe='')}" if map_id is not None else f"/run/{history.find(given).run_id}"


def found_at(port: int, place: str) -> str | None:
    """Return the address of a server of Fusion on a port that has what is at this place; None without one."""
    if port == 0:
        return None
    kind, _, name = place.strip("/").partition("/")
    connection = http.client.HTTPConnection(_HOST, port, timeout=_SECONDS)
    try:
        token = secret("FUSION_SERVER_TOKEN")
        connection.request(
            "GET", f"/api/{kind}s/{name}", headers={} if token is None else {"authorization": f"Bearer {token}"}
        )
        response = connection.getresponse()
        is_ours = (response.getheader("content-security-policy") or "").startswith("default-src 'none'")
        response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return f"http://{_HOST}:{port}" if is_ours and response.status == 200 else None


def served(settings: Settings, where: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the runs of the store at `where` until a signal ends it; `ready` is called with the address.

    Another port is taken where this one is in use. Raises UsageError without the extra `server`.
    """
    try:
        from fusion.server.app import build
        from fusion.server.listener.serve import Listener, address, bound
    except ImportError as error:
        raise UsageError("the page needs the extra server: pip install 'compound-fusion[server]'") from error
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    with Fusion(store=where, settings=settings) as fusion:
        app = build(fusion, warm=False)
        try:
            listening = bound(_HOST, port)
        except UsageError:
            listening = bound(_HOST, 0)
        with listening:
            Listener(app, ready=lambda: ready(address(listening))).run_on(listening)
