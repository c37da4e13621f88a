"""Hosts and origins: requests under a foreign name, or from a foreign web page, are refused."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final

from fusion.server.base import RefusedError

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


class Hosts:
    """Names under which the server is reached, and origins of web pages that may call it.

    With `any_host`, for a server with tokens on a public address, every name is taken unless `hosts` names some.
    """

    def __init__(self, hosts: Sequence[str] = (), origins: Sequence[str] = (), *, any_host: bool = False) -> None:
        self._hosts = _LOOPBACK.union(hosts)
        self._any = any_host and not hosts
        self._origins = frozenset(origins)

    def check(self, headers: Mapping[str, str], named: Sequence[str]) -> str | None:
        """Return the allowed foreign origin of a request, if any; `named` are its Host headers.

        Raises RefusedError.
        """
        if len(named) != 1 or not self._is_known(named[0]):
            raise _refused("this host name is not served; `allowed_hosts` in [server] adds names", "host")
        origin = headers.get("origin")
        if origin is None:
            self._check_site(headers)
            return None
        if origin.lower() in self._origins:
            return origin
        if not _is_same(origin, named[0]):
            raise _refused(
                "web pages of other origins are refused; `allowed_origins` in [server] adds some", "origin"
            )
        return None

    def _is_known(self, host: str) -> bool:
        return self._any or name_of(host) in self._hosts

    def _check_site(self, headers: Mapping[str, str]) -> None:
        """Refuse what a foreign page loads without an Origin, such as pictures; links may be followed."""
        site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
        if site == "cross-site" and mode != "navigate":
            raise _refused("this web page may not call the server", "origin")


def name_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and port.isdecimal() else host.strip().lower()


def is_loopback(host: str) -> bool:
    """Return True for an address that only this machine reaches."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_same(origin: str, host: str) -> bool:
    scheme, _, place = origin.lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme, "")
    return place.removesuffix(f":{port}") == host.strip().lower().removesuffix(f":{port}")


def _refused(message: str, code: str) -> RefusedError:
    return RefusedError(message, status=403, kind="permission_error", code=code)
