"""Servers with weather in processes of their own, and clients whose endpoints they are."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fusion import Fusion, Settings
from fusion.core.config import Endpoint, Tariff

__all__ = ["Provider", "client", "provider"]

_PRICE = Tariff(input=1, output=2)


class Provider:
    """A server in a process of its own."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def set(self, **weather: Any) -> None:
        """Begin anew with this weather."""
        self._ask("weather", json.dumps(weather).encode())

    def seen(self) -> dict[str, int]:
        """Return the number of requests by outcome."""
        return dict(self._ask("seen")["seen"])

    def admitted(self) -> list[float]:
        """Return the times of the admitted requests, in seconds since the first request."""
        return list(self._ask("seen")["admitted"])

    def _ask(self, what: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(f"{self.address}/{what}", body) as answer:
            return json.load(answer)


@contextmanager
def provider(**weather: Any) -> Iterator[Provider]:
    """Start a server, and end it."""
    command = [sys.executable, "-m", "benchmarks.weather.server", json.dumps(weather)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Provider(int(process.stdout.readline()))
        finally:
            process.kill()


def client(providers: Mapping[str, Provider], **options: Any) -> Fusion:
    """Return a client with an endpoint for each of these servers."""
    endpoints = {
        name: Endpoint(model=name, api_base=f"{one.address}/v1", price=_PRICE) for name, one in providers.items()
    }
    settings = Settings.from_environment().model_copy(update={"endpoints": endpoints})
    return Fusion(settings=settings, **options)
