"""Servers: asks endpoints and providers for their list of models, in parallel, and compares the clock with theirs."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from fusion.client.doctor.check import Check, ok, problem, warning
from fusion.core.config import Settings, secret
from fusion.core.errors import FusionError
from fusion.models.catalog import describe
from fusion.models.policy import Guard
from fusion.models.profiles import missing_keys
from fusion.models.providers.doors import DOORS
from fusion.models.providers.http.proxy import proxy_of
from fusion.models.providers.http.session import tls_context

_SECONDS: Final = 3.0
_AT_ONCE: Final = 8
_LARGEST: Final = 4_000_000
_SKEW: Final = 60.0
"""Seconds by which the clock may differ from that of a server."""
_VERSION: Final = "2023-06-01"


class Server(NamedTuple):
    """A server to ask: its address, the variable of its key, and the model that it should serve."""

    name: str
    address: str
    key: str | None = None
    model: str | None = None
    api: str = "openai"


class Answer(NamedTuple):
    """The answer of a server: status (0 without one), the fault in words, seconds of its clock ahead, and models."""

    status: int
    fault: str = ""
    ahead: float | None = None
    models: tuple[str, ...] | None = None


def check_servers(settings: Settings, *, online: bool) -> Iterator[Check]:
    """Check every endpoint, with `online` the providers whose keys are set too, and the clock against theirs."""
    servers = [*_endpoints(settings), *(_providers(settings) if online else ())]
    denied = dict(_denied(settings))
    yield from (ok(f"endpoint {name}", f"not asked: {why}") for name, why in denied.items())
    asked = [one for one in servers if one.name not in denied]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        answers = list(threads.map(_asked, asked))
    for server, answer in zip(asked, answers, strict=True):
        yield _checked(server, answer, is_endpoint=server.name in settings.endpoints)
    yield _clock(asked, answers, online=online)


def _endpoints(settings: Settings) -> Iterator[Server]:
    for name, one in settings.endpoints.items():
        yield Server(name, one.api_base, one.key_env, one.model)


def _providers(settings: Settings) -> Iterator[Server]:
    for name, door in DOORS.items():
        if not missing_keys((door.key,), settings):
            address = f"{door.address}/v1" if door.api == "anthropic" else door.address
            yield Server(name, address, door.key, api=door.api)


def _denied(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the endpoints that the policy forbids, which get no request, and the reasons."""
    guard = Guard(settings)
    for name in settings.endpoints:
        refused = guard.refusal(describe(name, settings))
        if refused is not None:
            yield name, refused.note


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect, which would take the key to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _asked(server: Server) -> Answer:
    try:
        headers = _headers(server)
    except FusionError as error:
        return Answer(0, str(error))
    request = Request(f"{server.address.rstrip('/')}/models", headers=headers)  # noqa: S310 - checked by the settings
    begun = time.time()
    try:
        with _opener(request.full_url).open(request, timeout=_SECONDS) as response:
            ahead = _ahead(response.headers.get("Date"), begun)
            return Answer(response.status, ahead=ahead, models=_models(response.read(_LARGEST)))
    except HTTPError as error:
        with error:
            return Answer(error.code, ahead=_ahead(error.headers.get("Date"), begun))
    except (URLError, HTTPException, OSError, ValueError) as error:
        return Answer(0, str(getattr(error, "reason", None) or error or type(error).__name__))


def _opener(address: str) -> OpenerDirector:
    """Return a client with the proxies and certificates of the calls to models."""
    proxy = proxy_of(address)
    proxies = ProxyHandler({} if proxy is None else {urlsplit(address).scheme: proxy})
    return build_opener(_NoRedirects, proxies, HTTPSHandler(context=tls_context()))


def _headers(server: Server) -> dict[str, str]:
    key = None if server.key is None else secret(server.key)
    if key is None:
        return {}
    if server.api == "anthropic":
        return {"x-api-key": key, "anthropic-version": _VERSION}
    return {"Authorization": f"Bearer {key}"}


def _models(body: bytes) -> tuple[str, ...] | None:
    """Return the names of a list of models; None for another body."""
    try:
        return tuple(str(one["id"]) for one in json.loads(body)["data"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _ahead(date: str | None, begun: float) -> float | None:
    """Return the seconds by which a server's clock is ahead, counted from the middle of the request."""
    try:
        return parsedate_to_datetime(date or "").timestamp() - (begun + time.time()) / 2
    except ValueError:
        return None


def _checked(server: Server, answer: Answer, *, is_endpoint: bool) -> Check:
    name = f"{'endpoint' if is_endpoint else 'provider'} {server.name}"
    key = server.key or "the key"
    if not answer.status:
        return problem(name, f"{server.address} is not reachable: {answer.fault}", _to_reach(is_endpoint))
    if answer.status in (401, 403):
        advice = f"set {key} to a valid key" if server.key else "name the variable of its key: `key_env`"
        return problem(name, f"{server.address} refuses the request ({answer.status})", advice)
    if answer.status != 200 or answer.models is None:
        words = f"{server.address} is reachable, and lists no models ({answer.status})"
        return warning(name, words, "check the address: it ends in /v1 for most servers")
    if server.model is not None and answer.models and server.model not in answer.models:
        listed = ", ".join(answer.models[:3])
        return warning(name, f"{server.address} does not list {server.model!r}", f"set `model` to one of: {listed}")
    return ok(name, f"{server.address} answers{'' if server.model is None else f', and has {server.model!r}'}")


def _to_reach(is_endpoint: bool) -> str:
    return "start the server, or correct `api_base`" if is_endpoint else "check the network, proxy and certificates"


def _clock(servers: Sequence[Server], answers: Sequence[Answer], *, online: bool) -> Check:
    """Compare the clock with the first server that says its own."""
    for server, answer in zip(servers, answers, strict=True):
        if answer.ahead is not None:
            host = urlsplit(server.address).hostname
            words = f"{abs(answer.ahead):.0f} s {'behind' if answer.ahead > 0 else 'ahead of'} {host}"
            if abs(answer.ahead) > _SKEW:
                return warning("clock", words, "set the clock: signed requests and certificates fail otherwise")
            return ok("clock", f"within {_SKEW:.0f} s of {host}")
    return ok("clock", "not compared, no server said its time" + ("" if online else "; --online asks the providers"))
