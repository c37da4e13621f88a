"""Proxy of a request, from the variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY; never for this machine."""

import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

_SPOKEN: Final = ("http://", "https://")


def proxy_of(url: str) -> str | None:
    """Return the proxy for an address, with its login if it has one; None for an address of this machine."""
    from urllib.request import getproxies, proxy_bypass

    address = urlsplit(url)
    host = address.hostname or ""
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all") if proxies else None
    if not proxy or is_loopback(host) or proxy_bypass(host):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    return proxy if proxy.startswith(_SPOKEN) else None


def is_loopback(host: str) -> bool:
    """Return True for a host that is this machine: `localhost`, 127.0.0.0/8, ::1, or the unspecified address.

    >>> is_loopback("127.0.0.2")
    True
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return _is_short_loopback(name)
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _is_short_loopback(name: str) -> bool:
    """Return True for the short forms of 127.0.0.1, such as `127.1`."""
    try:
        return socket.inet_aton(name)[0] == 127
    except OSError:
        return False
