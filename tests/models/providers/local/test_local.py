"""The embedded models: their servers, what is shared, and how they end. Those marked `local` need real weights."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest

from fusion.core.config import Settings
from fusion.core.errors import MissingKeyError, UsageError
from fusion.core.types import Deltas, Message, Reply, Request, Usage
from fusion.models.base import Model, ModelInfo
from fusion.models.providers.local.local import LocalModels
from fusion.models.providers.local.weights import find
from fusion.models.wrappers.limit import Limited

ROOT = Path(__file__).parents[4]
SCHEMA = {
    "type": "object",
    "properties": {"supplier": {"type": "string", "maxLength": 40}, "amount": {"type": "integer"}},
    "required": ["supplier", "amount"],
    "additionalProperties": False,
}


class Loopback(Model):
    """The least that speaks to an OpenAI-style server: one connection a call, closed when the call ends."""

    def __init__(self, alias: str, api_base: str, info: ModelInfo) -> None:
        self.info, self.alias = info, alias
        place, _, self.prefix = api_base.removeprefix("http://").partition("/")
        self.host, self.port = place.split(":")

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        reader, writer = await asyncio.open_connection(self.host, int(self.port))
        try:
            body = json.dumps(self.body(request, stream=on_delta is not None)).encode()
            head = f"POST /{self.prefix}/chat/completions HTTP/1.1\r\nHost: here\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = b""
            while chunk := await reader.read(65536):
                answer += chunk
                if on_delta is not None:
                    on_delta.add(chunk.decode())
        finally:
            writer.close()
        head_of, _, rest = answer.partition(b"\r\n\r\n")
        assert b" 200 " in head_of, answer
        return self.reply(json.loads(rest))

    def body(self, request: Request, *, stream: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.alias,
            "messages": [{"role": one.role, "content": one.content} for one in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stream": stream,
        }
        if request.json_schema:
            strict = {"name": "answer", "strict": True, "schema": request.json_schema}
            body["response_format"] = {"type": "json_schema", "json_schema": strict}
        return body

    def reply(self, answer: dict[str, Any]) -> Reply:
        choice, usage = answer["choices"][0], answer["usage"]
        return Reply(
            text=choice["message"]["content"],
            finish_reason=choice["finish_reason"],
            usage=Usage(
                input=usage["prompt_tokens"],
                cached_read=usage["prompt_tokens_details"]["cached_tokens"],
                output=usage["completion_tokens"],
            ),
            asked=self.info.id,
            served=answer["model"],
        )


class FirstDelta:
    """Says when the first piece of a reply has come."""

    committed = False

    def __init__(self) -> None:
        self.come = asyncio.Event()

    def add(self, text: str) -> None:
        self.come.set()

    def restart(self) -> None: ...


def ask(text: str, **more: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **{"max_tokens": 12, **more})


def weights(tier: str) -> Settings:
    settings = Settings.from_environment()
    if find(tier, settings) is None:
        pytest.fail(f"no weights of {tier!r} in {settings.models_dir}: run `fusion models pull {tier}`")
    return settings


@asynccontextmanager
async def running(tier: str) -> AsyncIterator[tuple[LocalModels, Model]]:
    models = LocalModels(weights(tier), Loopback)
    try:
        yield models, models.model(f"local/{tier}")
    finally:
        models.close()


def servers() -> list[psutil.Process]:
    children = psutil.Process().children()
    running = (child for child in children if child.status() != psutil.STATUS_ZOMBIE)
    return [child for child in running if any("local/server.py" in part for part in child.cmdline())]


def empty(folder: Path) -> Settings:
    return Settings(models_dir=folder, local_threads=1, library_dir=folder)


def own(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return f"local:{path}"


# What cannot be had


def test_a_tier_without_weights_says_both_ways_on(tmp_path: Path) -> None:
    with pytest.raises(MissingKeyError, match=r"no weights for 'local/small'.*fusion models pull small.*_API_KEY"):
        LocalModels(empty(tmp_path), Loopback).model("local/small")


def test_an_unknown_tier_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no embedded model 'huge'; there are: small, strong, tiny"):
        LocalModels(empty(tmp_path), Loopback).model("local/huge")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingKeyError, match=r"there is no file '.*absent\.gguf'"):
        LocalModels(empty(tmp_path), Loopback).model(f"local:{tmp_path}/absent.gguf")


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a GGUF file"):
        LocalModels(empty(tmp_path), Loopback).model(own(tmp_path / "picture.gguf", b"\x89PNG\r\n"))


def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingKeyError, match=r"pip install 'compound-fusion\[local\]'"):
        LocalModels(empty(tmp_path), Loopback).model(own(tmp_path / "model.gguf", b"GGUF"))


def test_a_damaged_file_fails_each_call_with_a_reason(tmp_path: Path) -> None:
    async def calls() -> None:
        models = LocalModels(empty(tmp_path), Loopback)
        model = models.model(own(tmp_path / "model.gguf", b"GGUF" + bytes(5000)))
        for _ in range(2):
            with pytest.raises(UsageError, match=r"llama\.cpp cannot load '.*model\.gguf'.*damaged"):
                await model.complete(ask("Hi"))
        models.close()

    asyncio.run(calls())
    assert servers() == []


def test_what_is_known_of_an_own_file(tmp_path: Path) -> None:
    info = LocalModels(empty(tmp_path), Loopback).model(own(tmp_path / "a b.gguf", b"GGUF")).info
    assert (info.local, info.json_schema, info.context) == (True, True, 8192)
    assert info.price is not None
    assert info.price.of(Usage(input=10**6, output=10**6)) == Decimal(0)
    assert servers() == []  # nothing is loaded before the first call


# What answers


@pytest.mark.local
def test_first_calls_at_once_share_one_server_and_have_one_answer() -> None:
    async def calls() -> None:
        async with running("tiny") as (models, model):
            same_file = models.model(f"local:{find('tiny', Settings.from_environment())}")
            texts = await asyncio.gather(*(m.complete(ask("Name a colour.")) for m in (model, same_file, model)))
            assert len(servers()) == 1
            assert {reply.text for reply in texts} == {texts[0].text}
            assert texts[0].text.strip()
            assert [reply.asked[:6] for reply in texts] == ["local/", "local:", "local/"]

    asyncio.run(calls())
    assert servers() == []


@pytest.mark.local
def test_a_temperature_makes_each_call_another_sample() -> None:
    async def calls() -> None:
        async with running("tiny") as (_, model):
            request = ask("Invent a name for a ship.", temperature=2.0, max_tokens=24)
            assert len({(await model.complete(request)).text for _ in range(3)}) > 1

    asyncio.run(calls())


@pytest.mark.local
def test_a_prompt_that_begins_like_an_earlier_one_is_not_read_again() -> None:
    document = " ".join(f"Line {n} says {n * n}." for n in range(30))
    other = " ".join(f"Row {n} holds {n + 7}." for n in range(30))

    async def calls() -> None:
        async with running("tiny") as (_, model):
            first = await model.complete(ask(f"{document}\nWhat does line 3 say?"))
            await model.complete(ask(f"{other}\nWhat does row 3 hold?"))
            again = await model.complete(ask(f"{document}\nWhat does line 5 say?"))
            assert first.usage.cached_read < 50
            assert again.usage.cached_read > 0.9 * first.usage.input > 200

    asyncio.run(calls())


@pytest.mark.local
def test_a_cancelled_call_stops_at_the_server() -> None:
    async def calls() -> None:
        async with running("tiny") as (_, model):
            seen = FirstDelta()
            long = asyncio.create_task(model.complete(ask("Count from 1 to 5000.", max_tokens=6000), seen))
            await seen.come.wait()
            long.cancel()
            await asyncio.wait([long])
            assert long.cancelled()
            async with asyncio.timeout(10):  # the whole answer would take minutes
                await model.complete(ask("Hi", max_tokens=2))

    asyncio.run(calls())


@pytest.mark.local
def test_calls_that_hold_the_slots_never_compute_at_once() -> None:
    at_once: list[int] = []

    class Counting(Loopback):
        async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
            at_once.append(1 + sum(at_once[-1:]) if busy else 1)
            busy.append(self)
            try:
                return await super().complete(request, on_delta)
            finally:
                busy.pop()

    busy: list[Model] = []

    async def calls() -> None:
        models = LocalModels(weights("tiny"), Counting)
        ids = ("local/tiny", f"local:{find('tiny', Settings.from_environment())}")
        limited = [Limited(models.model(name), concurrency=8, slots=models.slots) for name in ids]
        await asyncio.gather(*(model.complete(ask("Hi", max_tokens=2)) for model in limited * 3))
        models.close()

    asyncio.run(calls())
    assert at_once == [1] * 6


@pytest.mark.local
def test_small_answers_under_a_strict_schema() -> None:
    async def calls() -> None:
        async with running("small") as (_, model):
            text = "Invoice: Nordwind Ltd. delivered 12 chairs; 480 euros are due. Give supplier and amount as JSON."
            reply = await model.complete(ask(text, json_schema=SCHEMA, max_tokens=60))
            assert json.loads(reply.text) == {"supplier": "Nordwind Ltd.", "amount": 480}
            assert reply.finish_reason == "stop"

    asyncio.run(calls())


# How it ends


@pytest.mark.local
def test_after_close_or_a_crash_the_next_call_starts_it_anew() -> None:
    async def calls() -> None:
        async with running("tiny") as (models, model):
            first = await model.complete(ask("Name a colour."))
            models.close()
            assert servers() == []
            assert (await model.complete(ask("Name a colour."))).text == first.text
            [crashed] = servers()
            crashed.kill()
            crashed.wait(timeout=10)
            assert (await model.complete(ask("Name a colour."))).text == first.text

    asyncio.run(calls())


PROGRAM = """
import asyncio, os, signal, sys, psutil
from fusion.core.config import Settings
from fusion.models.providers.local.local import LocalModels
from tests.models.providers.local.test_local import Loopback, ask
models = LocalModels(Settings.from_environment(), Loopback)
asyncio.run(models.model("local/tiny").complete(ask("Hi", max_tokens=2)))
[server] = psutil.Process().children()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
if sys.argv[1] == "kill":
    print(server.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def program(how: str) -> "subprocess.CompletedProcess[str]":
    weights("tiny")
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, how],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )


@pytest.mark.local
def test_a_process_that_never_closes_ends_at_once_and_prints_nothing() -> None:
    done = program("leave")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.local
def test_a_killed_process_takes_its_server_along() -> None:
    done = program("kill")
    assert done.returncode == -signal.SIGKILL
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(timeout=20)
    assert not psutil.pid_exists(int(done.stdout))
