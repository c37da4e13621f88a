"""Sessions: one HTTP session for each event loop, shared by all providers."""

import asyncio
import ssl
from collections.abc import Awaitable
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

from fusion.core.config import variable
from fusion.models.providers.http.proxy import proxy_of

if TYPE_CHECKING:
    import aiohttp

_CONNECTING: Final = 5.0
"""Seconds for a connection: name, sockets, proxy and TLS."""
_DNS: Final = 300
"""Seconds that a resolved name is kept."""


class Requests(Protocol):
    """Sender of HTTP requests: a session, or what stands in for one."""

    def request(self, method: str, url: str, **options: Any) -> "Awaitable[aiohttp.ClientResponse]": ...


class Connecting(Protocol):
    """A request that notes that there is a connection to send it on."""

    connected: bool


connecting: ContextVar[Connecting | None] = ContextVar("fusion_connecting", default=None)
"""The request that the current task sends."""


class Session:
    """An aiohttp session without limits of concurrency and time, which the wrappers set, but for connecting."""

    def __init__(self) -> None:
        self._proxies: dict[str, str | None] = {}
        self._open: aiohttp.ClientSession | None = None

    def request(self, method: str, url: str, **options: Any) -> "Awaitable[aiohttp.ClientResponse]":
        """Send a request once, by the proxy of its address if there is one."""
        if url.startswith("https"):
            options["ssl"] = self._verification
        return self._http.request(method, url, allow_redirects=False, proxy=self._proxy(url), **options)

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()

    def _proxy(self, url: str) -> str | None:
        if url not in self._proxies:
            self._proxies[url] = proxy_of(url)
        return self._proxies[url]

    @property
    def _http(self) -> "aiohttp.ClientSession":
        if self._open is None or self._open.closed:
            self._open = _new_session()
        return self._open

    @cached_property
    def _verification(self) -> "ssl.SSLContext | bool":
        return verification()


class Sessions:
    """The sessions of this process by event loop."""

    def __init__(self) -> None:
        self._sessions: dict[asyncio.AbstractEventLoop, Session] = {}
        self._loaded = False

    async def ready(self) -> Session:
        """Return the session of the running loop, loading aiohttp in a thread at the first call."""
        if not self._loaded:  # another thread may be in the middle of loading it: its import waits for that one
            await asyncio.to_thread(__import__, "aiohttp")
            self._loaded = True
        return self.current

    @property
    def current(self) -> Session:
        """The session of the running loop."""
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            session = self._sessions[loop] = Session()
        return session

    async def close(self) -> None:
        """Close the connections of the running loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()


SESSIONS: Final = Sessions()


def verification() -> "ssl.SSLContext | bool":
    """Return the certificates to trust: those of SSL_CERT_FILE, else certifi's; False if SSL_VERIFY is false."""
    import certifi

    if (variable("SSL_VERIFY") or "").lower() == "false":
        return False
    context = ssl.create_default_context(cafile=variable("SSL_CERT_FILE") or certifi.where())
    level = variable("SSL_SECURITY_LEVEL")
    if level is not None:
        context.set_ciphers(level)
    return context


def tls_context() -> ssl.SSLContext:
    """Return `verification` as a context, for clients of the standard library."""
    found = verification()
    if isinstance(found, ssl.SSLContext):
        return found
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _new_session() -> "aiohttp.ClientSession":
    import aiohttp

    class Request(aiohttp.ClientRequest):
        """A request that tells its exchange of the connection; aiohttp's traces take 0.15 ms for that."""

        async def send(self, conn: Any) -> "aiohttp.ClientResponse":
            exchange = connecting.get()
            if exchange is not None:
                exchange.connected = True
            return await super().send(conn)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=_DNS),
        timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECTING, sock_connect=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        request_class=Request,
        auto_decompress=False,
        trust_env=False,
    )
