"""Addresses: the URL of a database, its parameters, and the words that name it without its secrets."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fusion.core.errors import StoreError
from fusion.store.base import StoreAddress

_SECRET: Final = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_ALIVE: Final[Mapping[str, str]] = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "3",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""Parameters by which a connection that is cut ends on this side, unless the URL says others."""
_ALIVE_THERE: Final = (
    "-c tcp_keepalives_idle=3 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3"
    " -c client_connection_check_interval=1000"
)
"""Settings by which a connection that is cut ends on the server's side, and with it the locks that it holds."""


@dataclass(frozen=True)
class Address:
    """A database, by the parameters of a connection to it. `where` names it, without secrets."""

    where: str
    parameters: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, url: str) -> "Address":
        """Read a URL. Raises StoreError, which never quotes the URL, for an invalid one."""
        try:
            found = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
        except psycopg.Error:
            raise StoreError(
                "the URL of the store cannot be read: write postgresql://USER@HOST:PORT/DATABASE, and special"
                " characters as %20"
            ) from None
        return cls(_where(found), found)

    def of_connection(self, purpose: str, options: str = "") -> str:
        """Return the parameters of a connection for a purpose, as libpq reads them; `options` are the server's."""
        options = f"{_ALIVE_THERE} {options} {self.parameters.get('options', os.environ.get('PGOPTIONS', ''))}"
        named = {"application_name": f"fusion {purpose}"}
        return make_conninfo("", **{**_ALIVE, **named, **self.parameters, "options": options.strip()})

    @property
    def shared(self) -> StoreAddress:
        """The address for other machines; the environment of those has its secrets."""
        named = ("user", "host", "port", "dbname", *_SECRET)
        others = {name: value for name, value in self.parameters.items() if name not in named}
        query = urlencode(others, quote_via=quote)
        url = f"{self.where}{'&' if '?' in self.where else '?'}{query}" if query else self.where
        password = self.parameters.get("password")
        return StoreAddress(url, {} if password is None else {"PGPASSWORD": password})

    def without_secrets(self, message: str) -> str:
        """Return a message in which no secret of the address is."""
        for name in _SECRET:
            if secret := self.parameters.get(name):
                message = message.replace(secret, "***").replace(quote(secret, safe=""), "***")
        return message


def _where(found: Mapping[str, str]) -> str:
    """Return the URL of user, host, port and database alone."""
    user, host = found.get("user", ""), found.get("host", found.get("hostaddr", ""))
    names = host.split(",")
    ports = found.get("port", "").split(",")
    ports = ports * len(names) if len(ports) == 1 else ports
    in_folder = host.startswith(("/", "@"))
    places = ",".join(_place(*one) for one in zip(names, ports, strict=False))
    database = quote(found.get("dbname", ""), safe="")
    before = f"{quote(user, safe='')}@" if user else ""
    if in_folder:
        return f"postgresql://{before}/{database}?host={host}" + (f"&port={ports[0]}" if ports[0] else "")
    return f"postgresql://{before}{places}/{database}"


def _place(host: str, port: str) -> str:
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host
