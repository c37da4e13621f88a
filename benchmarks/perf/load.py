"""Load and abuse: a real `fusion serve` under many, slow and large clients, on loopback.

Each scenario holds its clients open, asks for one run as any client does meanwhile, and reports what became of both:
how many were answered or refused, the seconds of the run beside them, and the memory that the server grew by.

    python -m benchmarks.perf.load [--streams 200] [--slow 500] [--connections 2000] [--megabytes 100]
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psutil

from benchmarks.perf import server
from benchmarks.perf.figures import machine

PIPELINES = {
    "ask": """
inputs: {task: A question.}
roles: {any: {chain: [openai/mock], concurrency: 10000}}
stages: {answer: {kind: generate, role: any, prompt: "{{ inputs.task }}"}}
output: answer
""",
    "echo": """
inputs: {task: A text.}
stages: {answer: {kind: render, template: "{{ inputs.task }}"}}
output: answer
""",
}
PATH: Final = "/v1/chat/completions"
_PIECE: Final = 1 << 16


@dataclass
class Server:
    """A `fusion serve` in a process of its own."""

    url: str
    process: "subprocess.Popen[str]"

    @property
    def megabytes(self) -> float:
        """The resident memory of the process."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20


@contextmanager
def serving(latency: int = 0, table: str = "") -> Iterator[Server]:
    """Start a provider and a server with the pipelines `ask` and `echo`; `latency` is in milliseconds."""
    raise_file_limit()
    with ExitStack() as stack:
        provider = stack.enter_context(server.running())
        provider.answer_after(latency)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, text in PIPELINES.items():
            (folder / f"{name}.yaml").write_text(text)
        (folder / "fusion.toml").write_text(f"[server]\n{table}\n")
        environment = {
            **os.environ,
            "OPENAI_BASE_URL": f"{provider.root}/v1",
            "OPENAI_API_KEY": "none",
            "FUSION_CONFIG": str(folder / "fusion.toml"),
        }
        files = [str(folder / f"{name}.yaml") for name in PIPELINES]
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "fusion", "serve", *files, "-q", "--port", "0", "--store", str(folder / "db")],
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        yield Server(process.stdout.readline().strip(), process)


def raise_file_limit() -> None:
    """Allow as many open files as the system does; child processes inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# Clients.


def chat(model: str = "ask", text: str = "hello", *, stream: bool = True) -> bytes:
    """Return a body of a chat completion."""
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": f"fusion/{model}", "stream": stream, "messages": messages}).encode()


def head(length: int | None, *more: str, path: str = PATH) -> bytes:
    """Return the head of a request; without a length, its body is chunked."""
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", size, *more, "", ""]
    return "\r\n".join(lines).encode()


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def said(reader: asyncio.StreamReader) -> bytes:
    """Return all that the server says, until it closes or a stream or an answer is whole."""
    found = b""
    with suppress(OSError):
        while piece := await reader.read(_PIECE):
            found += piece
            if b"[DONE]" in found[-100:] or found.endswith(b"0\r\n\r\n") or _is_whole(found):
                break
    return found


def _is_whole(answer: bytes) -> bool:
    start, _, body = answer.partition(b"\r\n\r\n")
    length = start.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return length.isdigit() and len(body) >= int(length)


def status(answer: bytes) -> str:
    """Return how a client was answered: `200`, `200 cut` for a stream without its end, or `closed`."""
    if not answer:
        return "closed"
    code = answer.split(b" ", 2)[1].decode()
    cut = b"text/event-stream" in answer and b"[DONE]" not in answer
    return f"{code} cut" if cut else code


async def ask(url: str) -> str:
    """Ask for one streamed run."""
    body = chat()
    async with connection(url) as (reader, writer):
        writer.write(head(len(body)) + body)
        return status(await said(reader))


# Scenarios: each returns how its clients were answered, once `beside` has run in their midst.

Beside = Callable[[], Awaitable[None]]


async def streams(url: str, count: int, beside: Beside) -> Counter[str]:
    """Ask for so many streams at once."""
    asked = [asyncio.create_task(ask(url)) for _ in range(count)]
    await beside()
    return Counter(await asyncio.gather(*asked))


async def slow_heads(url: str, count: int, beside: Beside) -> Counter[str]:
    """Send heads of requests a byte at a time."""
    return await _held(url, count, beside, [b"POST / HTTP/1.1\r\nhost: local", b"h", b"o", b"s", b"t"])


async def slow_bodies(url: str, count: int, beside: Beside) -> Counter[str]:
    """Announce a body, and send it a byte at a time."""
    return await _held(url, count, beside, [head(10_000), b"{", b'"', b"m"])


async def slow_readers(url: str, count: int, beside: Beside, size: int = 1_000_000) -> Counter[str]:
    """Ask for large answers, and read nothing of them."""
    body = chat("echo", "x" * size)
    return await _held(url, count, beside, [head(len(body)) + body])


async def idle(url: str, count: int, beside: Beside) -> Counter[str]:
    """Open connections, and say nothing."""
    return await _held(url, count, beside, [b""])


async def _held(url: str, count: int, beside: Beside, pieces: list[bytes]) -> Counter[str]:
    """Hold connections that send these pieces slowly; say which of them the server has closed or answered by then."""
    ready, done = asyncio.Semaphore(0), asyncio.Event()

    async def client() -> str:
        try:
            async with connection(url) as (reader, writer):
                try:
                    for piece in pieces:
                        writer.write(piece)
                        await asyncio.wait_for(writer.drain(), 1)
                        await asyncio.sleep(0.02)
                except (OSError, TimeoutError):
                    pass
                ready.release()
                await done.wait()
                return await _state(reader)
        except OSError:
            ready.release()
            return "refused"

    clients = [asyncio.create_task(client()) for _ in range(count)]
    for _ in clients:
        await ready.acquire()
    await beside()
    done.set()
    return Counter(await asyncio.gather(*clients))


async def _state(reader: asyncio.StreamReader) -> str:
    """Return how a connection was answered so far; `open` without an answer."""
    try:
        return status(await asyncio.wait_for(reader.read(_PIECE), 0.05)).removesuffix(" cut")
    except TimeoutError:
        return "open"
    except OSError:
        return "closed"


async def large_body(url: str, megabytes: int, beside: Beside, *, told: bool) -> Counter[str]:
    """Send a body of so many megabytes; `told` by its length, else in chunks."""
    async with connection(url) as (reader, writer):
        sent = asyncio.create_task(_send_large(writer, megabytes, told=told))
        await beside()
        answer = await said(reader)
        sent.cancel()
        await asyncio.gather(sent, return_exceptions=True)
    return Counter([status(answer)])


async def _send_large(writer: asyncio.StreamWriter, megabytes: int, *, told: bool) -> None:
    piece = b" " * _PIECE
    writer.write(head(megabytes << 20 if told else None))
    framed = piece if told else b"%x\r\n%s\r\n" % (len(piece), piece)
    for _ in range((megabytes << 20) // _PIECE):
        writer.write(framed)
        await writer.drain()


async def large_heads(url: str, count: int, beside: Beside) -> Counter[str]:
    """Send headers of a megabyte."""

    async def client() -> str:
        async with connection(url) as (reader, writer):
            with suppress(OSError):
                writer.write(head(2, "x-large: " + "x" * 2**20) + b"{}")
                await writer.drain()
            return status(await said(reader))

    clients = [asyncio.create_task(client()) for _ in range(count)]
    await beside()
    return Counter(await asyncio.gather(*clients))


@dataclass
class Outcome:
    """How the clients of a scenario were answered, and one beside them; `grown` is in megabytes."""

    clients: Counter[str]
    beside: str
    seconds: float
    grown: float


async def outcome(
    running: Server, scenario: Callable[..., Awaitable[Counter[str]]], *given: Any, **more: Any
) -> Outcome:
    """Run a scenario, with one ordinary request in its midst."""
    answers: list[tuple[str, float]] = []

    async def beside() -> None:
        began = time.perf_counter()
        answers.append((await ask(running.url), time.perf_counter() - began))

    before = running.megabytes
    clients = await scenario(running.url, *given, beside, **more)
    return Outcome(clients, *answers[0], grown=running.megabytes - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--slow", type=int, default=500)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--megabytes", type=int, default=100)
    given = parser.parse_args()
    print(machine())
    with serving() as running:
        assert asyncio.run(ask(running.url)) == "200"
        for name, scenario, number, more in (
            ("streams", streams, given.streams, {}),
            ("slow heads", slow_heads, given.slow, {}),
            ("slow bodies", slow_bodies, given.slow, {}),
            ("slow readers of 1 MB", slow_readers, given.slow, {}),
            ("bodies by length, MB", large_body, given.megabytes, {"told": True}),
            ("bodies in chunks, MB", large_body, given.megabytes, {"told": False}),
            ("heads of 1 MB", large_heads, 50, {}),
            ("idle connections", idle, given.connections, {}),
            ("streams again", streams, given.streams, {}),
        ):
            found = asyncio.run(outcome(running, scenario, number, **more))
            print(
                f"{number:>5} {name}: {dict(found.clients)}; beside them {found.beside} after {found.seconds:.2f} s; "
                f"{found.grown:+.0f} MB, now {running.megabytes:.0f} MB"
            )
    print(machine())


if __name__ == "__main__":
    main()
