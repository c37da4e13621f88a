"""Formats: checks of the keyword `format` in JSON Schemas. A format without a check here accepts every text."""

import re
from collections.abc import Callable
from datetime import date, time
from functools import cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from uuid import UUID

if TYPE_CHECKING:
    from jsonschema import FormatChecker

_MOST: Final = 10_000
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME: Final = re.compile(r"\d\d:\d\d:\d\d(?:\.\d+)?(?:[zZ]|[+-]\d\d:\d\d)", re.ASCII)
_DURATION: Final = re.compile(
    r"P(?!$)(?:\d+W|(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?)", re.ASCII
)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_EMAIL: Final = re.compile(r"[^\s@\"(),:;<>\[\]\\]{1,64}@[^\s@\"(),:;<>\[\]\\]{1,255}")
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_NOT_IN_A_URI: Final = re.compile(r"[\s\x00-\x1f\x7f<>\"{}|\\^`]|%(?![0-9A-Fa-f]{2})")
_POINTER: Final = re.compile(r"(?:/(?:[^~/]|~[01])*)*")


def _is_date(text: str) -> bool:
    return bool(_DATE.fullmatch(text) and date.fromisoformat(text))


def _is_time(text: str) -> bool:
    """Return True for a time of RFC 3339, which names its offset; a leap second counts as one."""
    if not _TIME.fullmatch(text):
        return False
    whole = text[:6] + ("59" if text[6:8] == "60" else text[6:8])
    offset = text[-6:] if text[-6] in "+-" else ""
    return time.fromisoformat(whole + offset) is not None


def _is_date_time(text: str) -> bool:
    return text[10:11] in ("T", "t", " ") and _is_date(text[:10]) and _is_time(text[11:])


def _is_email(text: str) -> bool:
    local, _, domain = text.rpartition("@")
    return bool(_EMAIL.fullmatch(text)) and all(part for name in (local, domain) for part in name.split("."))


def _is_hostname(text: str) -> bool:
    return 0 < len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.removesuffix(".").split("."))


def _is_uri(text: str) -> bool:
    return _is_uri_reference(text) and text.isascii() and bool(_SCHEME.match(text))


def _is_iri(text: str) -> bool:
    return _is_uri_reference(text) and bool(_SCHEME.match(text))


def _is_uri_reference(text: str) -> bool:
    if _NOT_IN_A_URI.search(text):
        return False
    parts = urlsplit(text)
    return bool(parts.port is None or parts.port >= 0) and not (
        parts.scheme in ("http", "https") and not parts.netloc
    )


def _is_ipv4(text: str) -> bool:
    return text.isascii() and IPv4Address(text) is not None


def _is_ipv6(text: str) -> bool:
    return "%" not in text and IPv6Address(text) is not None


def _is_regex(text: str) -> bool:
    re.compile(text)
    return True


FORMATS: Final[dict[str, Callable[[str], bool]]] = {
    "date": _is_date,
    "time": _is_time,
    "date-time": _is_date_time,
    "duration": lambda text: bool(_DURATION.fullmatch(text)),
    "email": _is_email,
    "idn-email": _is_email,
    "hostname": _is_hostname,
    "ipv4": _is_ipv4,
    "ipv6": _is_ipv6,
    "uri": _is_uri,
    "iri": _is_iri,
    "uri-reference": _is_uri_reference,
    "iri-reference": _is_uri_reference,
    "uuid": lambda text: bool(_UUID.fullmatch(text) and UUID(text)),
    "json-pointer": lambda text: bool(_POINTER.fullmatch(text)),
    "regex": _is_regex,
}
"""Checks by format: a false result or a ValueError is a violation."""


@cache
def checker() -> "FormatChecker":
    """Return the checker of all formats, for jsonschema."""
    from jsonschema import FormatChecker

    made = FormatChecker(formats=())
    for name, check in FORMATS.items():
        made.checkers = {**made.checkers, name: (_of_text(check), (ValueError, AddressValueError, re.error))}
    return made


def _of_text(check: Callable[[str], bool]) -> Callable[[Any], bool]:
    return lambda value: not isinstance(value, str) or (len(value) <= _MOST and check(value))
