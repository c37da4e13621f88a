"""Address: the Ray cluster that a map is meant for, and the reasons why it cannot be joined."""

import os
import re
import socket
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from fusion.core.errors import UsageError

LOCAL: Final = "local"
"""Address, as Ray has it, of a cluster that is started here."""
_OF_MACHINE: Final = "auto"
"""Address, as Ray has it, of the cluster of this machine. Ray finds the token of it too."""
_CLIENT: Final = "ray://"
_CLIENT_PORT: Final = 10001
_ANSWER_SECONDS: Final = 5.0
_PORTS: Final = (
    f"that of {_CLIENT} is {_CLIENT_PORT} unless it was set, and a plain address has that of the GCS, 6379"
)
_ASK: Final = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` prints on the head of the cluster"
)
_VERSIONS: Final = re.compile(r"Ray: (\S+)\s+Python: (\S+)")
_CRASHED: Final = "Starting Ray client server failed"
_PING: Final = b"\x08\x06"
"""A request of the Ray client for no more than an answer."""


class Address(NamedTuple):
    """The address of a cluster, and the one to give to Ray for it."""

    shown: str
    given: str


def found(address: str | None) -> Address:
    """Return the cluster at this address, or that of RAY_ADDRESS or of this machine, or one to start here.

    Raises UsageError if none answers there: Ray itself would wait for minutes, and not say why.
    """
    wanted = address or os.environ.get("RAY_ADDRESS") or ""
    if wanted in ("", _OF_MACHINE):
        return _of_machine(needed=wanted == _OF_MACHINE)
    if wanted != LOCAL:
        if not _answers(wanted):
            raise UsageError(
                f"no Ray cluster answers at {wanted}: check the address, and that the head runs there "
                f"(`ray status`); {_PORTS}"
            )
        _check_door(wanted)
    return Address(wanted, wanted)


def _of_machine(*, needed: bool) -> Address:
    last = _last_of_machine()
    if last is not None and _answers(last):
        return Address(last, _OF_MACHINE)
    if needed:
        raise UsageError("no Ray cluster runs on this machine, as RAY_ADDRESS says: `ray start --head` starts one")
    return Address(LOCAL, LOCAL)


def _last_of_machine() -> str | None:
    """Return the address of the cluster that was started last on this machine, from the file that Ray keeps of it."""
    try:
        return (Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster").read_text().strip()  # noqa: S108
    except OSError:
        return None


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    return parts.hostname or "", parts.port or _CLIENT_PORT


def _answers(address: str) -> bool:
    try:
        with socket.create_connection(_host_and_port(address), timeout=_ANSWER_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _check_door(address: str) -> None:
    """Raise UsageError if what listens there takes no calls of this process."""
    try:
        from ray._private.grpc_utils import init_grpc_channel
    except ImportError:  # another Ray: it says itself what is wrong, if later
        return
    of_client = address.startswith(_CLIENT)
    method = "/ray.rpc.RayletDriver/ClusterInfo" if of_client else "/ray.rpc.NodeInfoGcsService/GetClusterId"
    try:
        with init_grpc_channel(":".join(map(str, _host_and_port(address)))) as channel:
            channel.unary_unary(method)(_PING if of_client else b"", timeout=_ANSWER_SECONDS)
    except Exception as error:  # of Ray or of gRPC, which has a status
        match _status(error):
            case "UNAUTHENTICATED":
                says = f"the Ray cluster at {address} refuses the token of this machine: {_ASK}"
            case "UNIMPLEMENTED":
                says = f"{address} is another port of a Ray cluster: {_PORTS}"
            case None:
                says = advice(address, error)
            case _:
                return
        raise UsageError(says) from error


def _status(error: Exception) -> str | None:
    """Return the name of the status of an error of gRPC."""
    code = getattr(error, "code", None)
    return str(code().name) if callable(code) else None


def may_pass(error: Exception) -> bool:
    """Return True if the same connection may succeed at once: processes that a head forks for a client may crash."""
    return _CRASHED in str(error)


def advice(address: str, error: Exception) -> str:
    """Return what is wrong with a connection, and what to do."""
    said = " ".join(str(error).split())
    place = "a Ray cluster cannot be started here" if address == LOCAL else f"the Ray cluster at {address}"
    if len(versions := _VERSIONS.findall(said)) == 2:
        return f"{place} {_mismatch(*versions)}"
    if "couldn't find an authentication token" in said or "no authentication token" in said:
        return f"{place} cannot be joined, since RAY_AUTH_MODE is token, and this machine has none: {_ASK}"
    if "timeout" in said:
        return f"{place} does not answer ({said}): check that its head runs, and the port; {_PORTS}"
    said = said.rpartition("Error: ")[2]  # it may be a traceback of the head
    return f"{place}: {said}" if address == LOCAL else f"{place} cannot be joined: {said}"


def _mismatch(there: tuple[str, str], here: tuple[str, str]) -> str:
    """Return the versions of a cluster and of this process that differ, and what to install."""
    names = ("Ray", "Python")
    differ = [number for number in range(2) if there[number] != here[number]]
    has, own = (" and ".join(f"{names[one]} {versions[one]}" for one in differ) for versions in (there, here))
    cures = (f"run `pip install 'ray[client]=={there[0]}'`", f"use Python {there[1]}")
    return (
        f"has {has}, and this process {own}: {' and '.join(cures[one] for one in differ)} here, or change the cluster"
    )
