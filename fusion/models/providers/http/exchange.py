"""Exchange: one HTTP request to a provider, sent exactly once, and its response."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from fusion.models.attempt import note_response
from fusion.models.providers.http import body
from fusion.models.providers.http.session import Requests, connecting

if TYPE_CHECKING:
    import aiohttp


class Exchange:
    """One request and its response.

    `most` is the largest body of the response, in bytes. `secrets` are the keys in the request's headers. `connected`
    is True once there is a connection to send it on; `connection_error` tells why there is no response.
    """

    def __init__(self, session: Requests, most: int) -> None:
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.error_body = ""
        self.connection_error: Exception | None = None
        self.secrets: tuple[str, ...] = ()
        self.response: aiohttp.ClientResponse | None = None
        self.connected = False
        self._most = most
        self._session = session
        self._sent: str | bytes | None = None

    async def send(
        self, url: str, data: Any, headers: Mapping[str, str], params: Any = None, *, method: str = "POST"
    ) -> None:
        """Send the request, and read the body of a response that is not 2xx. Raises ConnectionError without one."""
        import aiohttp

        self._sent = data
        here = connecting.set(self)
        try:
            self.response = await self._session.request(method, url, data=data, params=params, headers=headers)
            self.status, self.headers = self.response.status, self.response.headers
            note_response(self.status, self.headers)
            if not self.ok:
                self.error_body = await body.error_text(self.response)
        except (aiohttp.ClientError, OSError) as error:
            self.connection_error = error
            raise ConnectionError(str(error)) from error
        finally:
            connecting.reset(here)

    @property
    def ok(self) -> bool:
        """True for a status of 2xx."""
        return self.status is not None and 200 <= self.status < 300

    def blocks(self) -> AsyncIterator[bytes]:
        """Return the blocks of the response's body."""
        assert self.response is not None
        return body.blocks(self.response, self._most)

    async def whole(self) -> bytes:
        """Return the whole body of the response."""
        return b"".join([block async for block in self.blocks()])

    @property
    def sent(self) -> frozenset[str]:
        """Names of the fields that the request was sent with."""
        return frozenset(json.loads(self._sent)) if self._sent else frozenset()

    def close(self) -> None:
        """Return the connection to its pool if the response was read completely, else close it."""
        if self.response is not None:
            self.response.release()
