"""What goes over the wire: which addresses, through which proxy, how large, how long, and under which key."""

import asyncio
import gzip
import json
import os
import socket
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, RunFailed, Settings
from fusion.core import budget
from fusion.core.budget import Amount, Budget
from fusion.core.config import Endpoint, Tariff, secrets
from fusion.core.errors import (
    BadRequestError,
    BadResponseError,
    ModelConnectionError,
    ModelTimeoutError,
    OversizedReplyError,
    ParameterNameError,
    PipelineError,
    UsageError,
)
from fusion.core.events import AttemptFailed
from fusion.core.types import Limits
from fusion.models.base import Model
from fusion.models.providers.direct import direct
from fusion.models.providers.http.proxy import is_loopback, proxy_of
from fusion.models.providers.litellm import LiteLLMModel, close_all, warm
from fusion.models.wrappers.budget import Metered
from fusion.models.wrappers.limit import Limited
from tests.models.conformance import Collected, request
from tests.models.providers.reader.bodies import ask, chunks, stream, whole
from tests.models.providers.reader.test_thoughts import one
from tests.provider import Answer, Provider, Seen

pytestmark = pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning")


@pytest.fixture(name="closing")
async def _closing() -> AsyncIterator[None]:
    yield
    await close_all()


make: Any = direct
"""Makes a model by the door under test."""


@pytest.fixture(name="door", params=[direct, LiteLLMModel], ids=["direct", "litellm"])
def _door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "make", request.param)


both_doors = pytest.mark.usefixtures("door")
asynchronous = [pytest.mark.anyio, pytest.mark.usefixtures("closing")]


def with_marks(test: Any) -> Any:
    for mark in asynchronous:
        test = mark(test)
    return test


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    return Settings(models_dir=tmp_path, local_threads=1, library_dir=tmp_path)


def endpoint(settings: Settings, url: str, **more: Any) -> Settings:
    mine = Endpoint(**{"model": "m", "api_base": url, "price": Tariff(input=1, output=2), **more})
    keys = frozenset({"MINE_API_KEY", "OPENAI_API_KEY"})
    return settings.model_copy(update={"endpoints": {"mine": mine}, "keys": keys})


# Size

LARGE = {
    "text": json.dumps(whole("x" * 900_000)).encode(),
    "white space": b" " * 900_000 + json.dumps(whole()).encode(),
    "a stream": stream(chunks(*["word " * 100] * 2000)).encode(),
    "one event": b"data: " + b"x" * 1_500_000,
    "comments": b": ping\n\n" * 200_000,
    "thoughts": stream([{"choices": [{"index": 0, "delta": {"reasoning": "x" * 99}}]}] * 9000).encode(),
}


@with_marks
@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE.keys())
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_reply_larger_than_its_limit_explains_is_not_read(body: bytes, streamed: bool) -> None:
    error = (await ask(body, streamed=streamed, max_tokens=50)).error
    assert isinstance(error, OversizedReplyError)
    assert not error.retryable
    assert "too large" in str(error)


def bomb(encoding: str, size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    parts = [packer.compress(b" " * 1_000_000) for _ in range(size)]
    return b"".join((*parts, packer.compress(json.dumps(whole()).encode()), packer.flush()))


@with_marks
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("status", [200, 500])
async def test_a_body_that_unpacks_to_much_takes_little_memory(encoding: str, streamed: bool, status: int) -> None:
    import tracemalloc

    body = bomb(encoding, 100)
    await warm()
    tracemalloc.start()
    try:
        error = (
            await ask(body, streamed=streamed, status=status, max_tokens=50, headers={"content-encoding": encoding})
        ).error
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(error, OversizedReplyError if status == 200 else ModelConnectionError)
    assert peak < 16_000_000  # of 100 MB


def packed(encoding: str) -> bytes:
    body = stream(chunks("Os", "lo")).encode()
    if encoding == "gzip":
        return gzip.compress(body[:50]) + gzip.compress(body[50:])  # members may follow each other
    if encoding == "raw deflate":
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(body) + packer.flush()
    return zlib.compress(body) if encoding == "deflate" else body


@with_marks
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate", "identity", ""])
async def test_packed_bodies_are_read(encoding: str) -> None:
    headers = {"content-encoding": encoding.removeprefix("raw ")} if encoding else {}
    for streamed in (False, True):
        reply = (await ask(packed(encoding), streamed=streamed, headers=headers)).reply
        assert reply is not None
        assert reply.text == "Oslo"


BROKEN = {
    "no gzip": ("gzip", b"{}"),
    "cut": ("gzip", gzip.compress(json.dumps(whole()).encode())[:-20]),
    "br": ("br", b"x"),
}


@with_marks
@pytest.mark.parametrize(("encoding", "body"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_body_that_cannot_be_unpacked_is_a_failed_attempt(encoding: str, body: bytes) -> None:
    for streamed in (False, True):
        error = (await ask(body, streamed=streamed, headers={"content-encoding": encoding})).error
        assert isinstance(error, BadResponseError)
        assert "packed" in str(error) or "encoding" in str(error)


@with_marks
async def test_a_large_reply_within_its_limit_is_read() -> None:
    for body in (whole("word " * 60_000), stream(chunks(*["word "] * 60_000))):
        for streamed in (False, True):
            reply = (await ask(body, streamed=streamed, max_tokens=60_000)).reply
            assert reply is not None
            assert len(reply.text) == 300_000


# Addresses

LOOPBACK = [
    "localhost",
    "LOCALHOST.",
    "a.localhost",
    "127.0.0.1",
    "127.8.9.1",
    "::1",
    "0.0.0.0",
    "127.1",
    "::ffff:127.0.0.1",
]
ELSEWHERE = ["example.org", "10.0.0.1", "192.168.1.2", "notlocalhost", "localhost.example.org", "2001:db8::1", ""]


@pytest.mark.parametrize("host", [*LOOPBACK, *ELSEWHERE])
def test_loopback_is_known_in_all_its_forms(host: str) -> None:
    assert is_loopback(host) is (host in LOOPBACK)


PROXIES = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"]


@pytest.fixture(name="proxied", params=["http://127.0.0.1:9", "127.0.0.1:9"])
def _proxied(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    for name in (*PROXIES, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in PROXIES:
        monkeypatch.setenv(name, request.param)


@both_doors
@with_marks
@pytest.mark.usefixtures("proxied")
async def test_a_server_of_this_machine_is_never_reached_through_a_proxy() -> None:
    with Provider(Answer("hello")) as provider:
        for host in ("127.0.0.1", "localhost"):
            base = provider.url.replace("127.0.0.1", host)
            model = make("openai/m", api_base=base, api_key="none")
            assert (await model.complete(request())).text == "hello"
            assert (await model.complete(request(), Collected())).text == "hello"


@pytest.mark.usefixtures("proxied")
def test_other_servers_are_reached_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_of("https://api.example.org/v1") == "http://127.0.0.1:9"
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert proxy_of("https://api.example.org/v1") is None
    assert proxy_of("http://127.0.0.1:8000/v1") is None


@both_doors
@with_marks
async def test_a_proxy_may_have_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Provider(Answer("hello")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.root.replace("//", "//me:secret@"))
        model = make("openai/m", api_base="http://api.example.test/v1", api_key="none")
        assert (await model.complete(request())).text == "hello"
        (seen,) = proxy.requests
    assert seen.path == "http://api.example.test/v1/chat/completions"
    assert seen.headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"


WATCHED = """
import sys
seen = set()
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        seen.add(repr(arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[:2]))
sys.addaudithook(watch)
from fusion.cli.app import run_command
code = run_command(["run", "one.yaml", "Capital?", "-m", "mine", "--no-store", "-q"])
print(code, *sorted(seen), sep="\\n")
"""


def test_no_address_is_contacted_but_the_model_s_own(tmp_path: Path) -> None:
    stage = {"kind": "generate", "role": "bulk", "prompt": "{{ inputs.q }}"}
    given = {"name": "one", "inputs": {"q": {}}, "stages": {"answer": stage}, "output": "answer"}
    (tmp_path / "one.yaml").write_text(json.dumps(given))
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    with Provider(Answer("Oslo")) as provider:
        (tmp_path / "own.toml").write_text(f'[endpoints.mine]\nmodel = "m"\napi_base = "{provider.url}"\n')
        env = {**kept, "HOME": str(tmp_path), "FUSION_CONFIG": str(tmp_path / "own.toml"), "OPENAI_API_KEY": "sk-x"}
        done = subprocess.run(
            [sys.executable, "-c", WATCHED], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100
        )
    port = provider.root.rpartition(":")[2]
    assert done.stdout.splitlines()[:2] == ["Oslo", "0"], done.stderr
    strange = [line for line in done.stdout.splitlines()[2:] if port not in line]
    assert strange == []


# Time and money


@pytest.fixture(name="hole")
def _hole() -> Iterator[str]:
    """The address of a server that accepts no connection and refuses none."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    waiting = [socket.socket() for _ in range(8)]
    for knocking in waiting:
        knocking.setblocking(False)
        knocking.connect_ex(listening.getsockname())
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    for opened in (*waiting, listening):
        opened.close()


async def spent(model: Model, **options: Any) -> tuple[Amount, Exception | None]:
    """What an attempt costs, and its error."""
    paying = Budget(Limits(calls=5))
    running = budget.current.set(paying)
    try:
        await Metered(Limited(model, concurrency=1)).complete(request(**options))
    except Exception as error:
        return paying.spent, error
    finally:
        budget.current.reset(running)
    return paying.spent, None


@both_doors
@with_marks
async def test_a_connection_that_was_never_made_is_free(hole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await warm()
    amount, error = await spent(make("openai/m", api_base=hole, api_key="none"), timeout=0.5)
    assert isinstance(error, ModelTimeoutError)
    assert (amount.tokens, amount.calls) == (0, 0)
    await close_all()
    monkeypatch.setattr("fusion.models.providers.http.session._CONNECTING", 0.3)
    amount, error = await spent(make("openai/m", api_base=hole, api_key="none"), timeout=20)
    assert isinstance(error, ModelConnectionError)
    assert (amount.tokens, amount.calls) == (0, 0)


@both_doors
@with_marks
@pytest.mark.parametrize("address", ["http://127.0.0.1:9/v1", "https://127.0.0.1:9/v1"])
async def test_a_refused_connection_is_free(address: str) -> None:
    amount, error = await spent(make("openai/m", api_base=address, api_key="none"))
    assert isinstance(error, ModelConnectionError)
    assert (amount.tokens, amount.calls) == (0, 0)


@both_doors
@with_marks
@pytest.mark.parametrize("drop", ["before", "reset", "headers", "body"])
async def test_a_connection_lost_after_sending_is_charged_as_a_timeout_is(drop: Any) -> None:
    with Provider(Answer(drop=drop)) as provider:
        amount, error = await spent(make("openai/m", api_base=provider.url, api_key="none"))
    assert isinstance(error, ModelConnectionError)
    assert amount.tokens > 200
    with Provider(Answer(hang=True)) as provider:
        timed_out, _ = await spent(make("openai/m", api_base=provider.url, api_key="none"), timeout=0.3)
    assert amount == timed_out


@with_marks
async def test_loading_a_library_is_part_of_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusion.models.providers import litellm

    await warm()
    loaded, waits = litellm._LIBRARY, []

    class Slow:
        async def ready(self) -> Any:
            if not waits:
                waits.append(1)
                await asyncio.sleep(0.5)
            return await loaded.ready()

        async def close(self) -> None:
            await loaded.close()

    monkeypatch.setattr(litellm, "_LIBRARY", Slow())
    with Provider(Answer("hello")) as provider:
        model = LiteLLMModel("openai/m", api_base=provider.url, api_key="none")
        amount, error = await spent(model, timeout=0.45)
    assert error is None
    assert amount.calls == 1


# Keys

KEY = "sk-test-0123456789"
PADDED = [f"{KEY}\n", f" {KEY}", f"{KEY}\r\n", f"\t{KEY} ", f"{KEY}\n\n"]
IMPOSSIBLE = [
    "sk-test\n0123456789",
    "sk-tést-0123456789",
    "sk-test\x010123456",
    "sk-\u201c0123456789",
    "a\tb-0123456789",
]


@pytest.mark.parametrize("key", PADDED)
def test_white_space_around_a_key_is_not_sent(key: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE_API_KEY", key)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with Provider(Answer("Oslo")) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        own = endpoint(settings, provider.url, key_env="MINE_API_KEY")
        for model in ("mine", "openai/gpt-5.6"):
            with Fusion(settings=own, model=model) as fusion:
                assert fusion.complete("Capital?", pipeline=one()).text == "Oslo"
        assert {seen.headers["authorization"] for seen in provider.requests} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("key", IMPOSSIBLE)
def test_a_key_that_no_header_holds_is_refused_by_name(
    key: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, model in (("MINE_API_KEY", "mine"), ("OPENAI_API_KEY", "openai/gpt-5.6")):
        monkeypatch.setenv(name, key)
        with Provider() as provider:
            own = endpoint(settings, provider.url, key_env="MINE_API_KEY")
            with (
                Fusion(settings=own, model=model) as fusion,
                pytest.raises((UsageError, RunFailed), match=name) as caught,
            ):
                fusion.complete("Capital?", pipeline=one())
            assert caught.value.exit_code == 2
            assert key not in str(caught.value)
            assert provider.requests == []
        monkeypatch.delenv(name)


NO_SECRETS = [
    "20261231",
    "main",
    "release",
    "1.2.3",
    "2026-11-29T10:00",
    "deadbeef",
    "true",
    "feature-branch-of-mine",
]
TOKENS = [
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "glpat-a1B2c3D4e5F6g7H8i9J0",
    "c0ffee00c0ffee00c0ffee00c0ffee00",
]


@pytest.mark.parametrize("value", [*NO_SECRETS, *TOKENS, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN"])
def test_a_token_is_masked_where_it_looks_like_a_secret(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_TOKEN", value)
    assert ("BUILD_TOKEN" in secrets()) is (value not in NO_SECRETS)
    assert "BUILD_TOKEN" in secrets({"BUILD_TOKEN"})  # a key in use


# Parameters


def takes(name: str) -> Any:
    """A server that takes the output limit by one name only."""
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[name]
    words = f"Unsupported parameter: '{other}' is not supported with this model. Use '{name}' instead."

    def answer(seen: Seen) -> Answer:
        return Answer("Oslo") if name in seen.body and other not in seen.body else Answer(words, status=400)

    return answer


@pytest.mark.parametrize("name", ["max_completion_tokens", "max_tokens"])
def test_an_output_limit_of_another_name_is_found_out_once(name: str, settings: Settings) -> None:
    with Provider(takes(name)) as provider:
        seen: list[Any] = []
        with Fusion(settings=endpoint(settings, provider.url), model="mine") as fusion:
            for _ in range(3):
                assert fusion.complete("Capital?", pipeline=one(), on_event=seen.append).text == "Oslo"
        assert len(provider.requests) == (4 if name != "max_tokens" else 3)
        failed = [event for event in seen if isinstance(event, AttemptFailed)]
        assert len(failed) == len(provider.requests) - 3
        assert all(event.failure.reason == "ParameterNameError" for event in failed)


@with_marks
async def test_a_server_that_takes_neither_name_is_asked_twice() -> None:
    def answer(seen: Seen) -> Answer:
        name = "max_tokens" if "max_tokens" in seen.body else "max_completion_tokens"
        return Answer(f"Unsupported parameter: {name}", status=400)

    with Provider(answer) as provider:
        model = make("openai/m", api_base=provider.url, api_key="none")
        with pytest.raises(ParameterNameError):
            await model.complete(request())
        with pytest.raises(BadRequestError) as caught:
            await model.complete(request())
        assert type(caught.value) is BadRequestError


@pytest.mark.parametrize("name", ["n", "num_choices"])
def test_several_choices_are_refused_beforehand(name: str) -> None:
    with pytest.raises((ValueError, PipelineError), match="a call has one reply"):
        one(extra={name: 2})
