"""The direct wire: the requests it sends, beside those of litellm, and who is asked by it."""

import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fusion.core.errors import AuthenticationError, BadRequestError, ModelConnectionError, ParameterNameError
from fusion.core.types import File, Message, Request
from fusion.models.catalog import lookup
from fusion.models.providers.direct import direct
from fusion.models.providers.doors import DOORS
from fusion.models.providers.litellm import LiteLLMModel, close_all
from tests.models.conformance import Collected, request
from tests.provider import Answer, Provider, Seen

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning")]
KEY = "sk-of-a-test-0123456789"
PNG = File(media_type="image/png", data=b"\x89PNG\r\n\x1a\n1234")
PDF = File(media_type="application/pdf", data=b"%PDF-1.4", name="offer.pdf")
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "parts": {"type": "array", "items": {"type": "integer"}}},
    "required": ["city", "parts"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
async def closing() -> AsyncIterator[None]:
    yield
    await close_all()


def user(text: str, *files: tuple[int, File]) -> Message:
    return Message(role="user", content=text, files=files)


SYSTEM = Message(role="system", content="Be brief.")
ASSISTANT = Message(role="assistant", content="Oslo.")
PLAIN: dict[str, dict[str, Any]] = {
    "system and user": {"messages": (SYSTEM, user("Capital?"))},
    "a conversation": {"messages": (SYSTEM, user("Capital?"), ASSISTANT, user("And of Chile?"))},
    "two messages of the user": {"messages": (user("Read this."), user("Now answer."))},
    "no ASCII": {"messages": (user("Hauptstadt? 首都 \U0001f30d"),)},
    "a picture": {"messages": (user("ab", (1, PNG)),)},
    "an object": {"messages": (SYSTEM, user("Capital?")), "json_schema": SCHEMA, "json_mode": "object"},
    "further fields": {"messages": (user("Capital?"),), "extra": {"service_tier": "flex", "top_k": 5}},
}
SAMPLING = {"messages": (user("Capital?"),), "temperature": 0.25, "top_p": 0.5, "stop": ("END", "STOP")}
SCHEMAS = {"messages": (SYSTEM, user("Capital?")), "json_schema": SCHEMA}
DOCUMENT = {"messages": (user("ab", (1, PDF)),)}
LONG = {"messages": (user("Capital?"),), "max_tokens": 20_000}
OPENAI = {
    "sampling": {**SAMPLING, "seed": 3},
    "a schema": SCHEMAS,
    "a document": DOCUMENT,
}
STABLE = Message(role="user", content="Long text. Which city?", stable=10)
MARKED = {
    "a mark in the system message": {"messages": (SYSTEM.model_copy(update={"stable": 9}), user("Capital?"))},
    "a mark in the user's message": {"messages": (SYSTEM, STABLE)},
}
EFFORTS = {f"effort {effort}": {**LONG, "reasoning_effort": effort} for effort in ("none", "low", "high", "max")}
CASES: list[tuple[str, dict[str, dict[str, Any]]]] = [
    ("openai/gpt-4o", {**PLAIN, **OPENAI}),
    ("openai/my-own", {**PLAIN, **OPENAI, **EFFORTS}),
    ("openai/gpt-5.6", {**PLAIN, "a schema": SCHEMAS, "a document": DOCUMENT, **EFFORTS}),
    ("openai/o3", {"effort low": {**LONG, "reasoning_effort": "low"}}),
    ("openrouter/openai/gpt-5.6", {**PLAIN, **OPENAI, **EFFORTS}),
    ("groq/openai/gpt-oss-20b", {**PLAIN, **OPENAI, **EFFORTS}),
    ("deepseek/deepseek-v4-flash", {**PLAIN, "sampling": {**SAMPLING, "seed": 3}, "a schema": SCHEMAS, **EFFORTS}),
    ("deepseek/deepseek-v4-flash", {"thinking": {**LONG, "thinking_budget": 2000}}),
    ("anthropic/claude-haiku-4-5", {**PLAIN, "a document": DOCUMENT, **EFFORTS}),
    ("anthropic/claude-haiku-4-5", {"sampling": {**SAMPLING}, "thinking": {**LONG, "thinking_budget": 2000}}),
    ("anthropic/claude-haiku-5-5", {**PLAIN, "a document": DOCUMENT, **EFFORTS}),
    ("anthropic/claude-opus-5-5", {**PLAIN, **EFFORTS}),
    ("anthropic/claude-haiku-4-5", MARKED),
    ("openrouter/anthropic/claude-haiku-5.5", MARKED),
    ("openrouter/openai/gpt-5.6", MARKED),
]


def plainly(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body with the differences between the doors that mean the same taken out."""
    return {name: value for name, value in body.items() if value is not False or name != "stream"}


@pytest.mark.parametrize(
    ("model_id", "given"),
    [
        pytest.param(model_id, case, id=f"{model_id} {name}")
        for model_id, cases in CASES
        for name, case in cases.items()
    ],
)
async def test_both_doors_send_the_same(model_id: str, given: dict[str, Any]) -> None:
    asked = Request(**{"max_tokens": 100, "timeout": 60.0, **given})
    with Provider() as provider:
        base = provider.root if model_id.startswith("anthropic/") else provider.url
        for make in (direct, LiteLLMModel):
            one = make(model_id, info=lookup(model_id), api_base=base, api_key=KEY)
            await one.complete(asked)
        ours, theirs = provider.requests
    assert plainly(ours.body) == plainly(theirs.body)
    assert ours.path == theirs.path
    for name in ("authorization", "x-api-key", "anthropic-version", "content-type", "accept-encoding"):
        assert ours.headers.get(name) == theirs.headers.get(name)


async def sent(model_id: str, answer: Answer | None = None, *, streamed: bool = False, **given: Any) -> Seen:
    with Provider(answer or Answer()) as provider:
        base = provider.root if model_id.startswith("anthropic/") else provider.url
        model = direct(model_id, info=lookup(model_id), api_base=base, api_key=KEY)
        await model.complete(
            Request(**{"messages": (SYSTEM, user("Capital?")), "max_tokens": 100, **given}),
            Collected() if streamed else None,
        )
        return provider.requests[-1]


async def test_a_schema_is_in_the_output_configuration_of_anthropic() -> None:
    body = (await sent("anthropic/claude-haiku-5-5", json_schema=SCHEMA, reasoning_effort="low")).body
    assert body["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}


async def test_a_budget_of_thoughts_is_given_to_openrouter_by_its_own_name() -> None:
    body = (await sent("openrouter/anthropic/claude-haiku-5.5", thinking_budget=2000, max_tokens=4000)).body
    assert body["reasoning"] == {"max_tokens": 2000}


async def test_a_later_system_message_is_one_of_the_user_at_anthropic() -> None:
    body = (await sent("anthropic/claude-haiku-4-5", messages=(SYSTEM, user("a"), SYSTEM, ASSISTANT))).body
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant"]
    assert [part["text"] for part in body["messages"][0]["content"]] == ["a", "Be brief."]


async def test_a_prompt_without_a_message_of_the_user_is_refused_by_anthropic_s_door() -> None:
    with pytest.raises(BadRequestError, match="needs a message of the user"):
        await sent("anthropic/claude-haiku-4-5", messages=(SYSTEM,))


# Prompt caches


@pytest.mark.parametrize("model_id", ["openai/gpt-5.6", "openai/my-own"])
async def test_the_key_of_a_cache_is_sent_to_a_provider_that_takes_it(model_id: str) -> None:
    assert (await sent(model_id, cache_key="k-1")).body["prompt_cache_key"] == "k-1"


@pytest.mark.parametrize(
    "model_id", ["groq/openai/gpt-oss-20b", "deepseek/deepseek-chat", "anthropic/claude-haiku-4-5"]
)
async def test_it_is_sent_to_no_other(model_id: str) -> None:
    assert "prompt_cache_key" not in (await sent(model_id, cache_key="k-1")).body


MARK = {"type": "ephemeral"}


async def test_the_end_of_the_stable_part_is_marked_for_anthropic() -> None:
    system = Message(role="system", content="Be brief.", stable=9)
    question = Message(role="user", content="Long text. Which city?", stable=10)
    body = (await sent("anthropic/claude-haiku-4-5", messages=(system, question))).body
    assert body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": MARK}]
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "Long text.", "cache_control": MARK},
        {"type": "text", "text": " Which city?"},
    ]


async def test_at_most_four_ends_are_marked() -> None:
    turns = [Message(role="user", content=f"part {n}", stable=6) for n in range(7)]
    body = (await sent("anthropic/claude-haiku-4-5", messages=tuple(turns))).body
    assert sum("cache_control" in part for part in body["messages"][0]["content"]) == 4
    assert "".join(part["text"] for part in body["messages"][0]["content"]) == "".join(turn.content for turn in turns)


async def test_a_claude_behind_openrouter_gets_the_mark_and_a_gpt_does_not() -> None:
    question = Message(role="user", content="Long text. Which city?", stable=10)
    marked = (await sent("openrouter/anthropic/claude-haiku-5.5", messages=(question,))).body["messages"][0][
        "content"
    ]
    assert marked[0] == {"type": "text", "text": "Long text.", "cache_control": MARK}
    plain = (await sent("openrouter/openai/gpt-5.6", messages=(question,))).body["messages"][0]["content"]
    assert plain == question.content


# Fields that a server refuses

REFUSED = [
    ("prompt_cache_key", "Unrecognized request argument supplied: prompt_cache_key"),
    ("prompt_cache_key", "extra inputs are not permitted: prompt_cache_key"),
    ("stream_options", "stream_options is not supported"),
    ("max_completion_tokens", "Unsupported parameter: 'max_completion_tokens', use 'max_tokens' instead"),
    ("max_tokens", "Unsupported parameter: 'max_tokens', use 'max_completion_tokens' instead"),
]


@pytest.mark.parametrize(("field", "words"), REFUSED)
async def test_a_field_that_a_server_does_not_know_is_left_out_from_then_on(field: str, words: str) -> None:
    def answer(seen: Seen) -> Answer:
        return Answer(words, status=400) if field in seen.body else Answer("Oslo")

    with Provider(answer) as provider:
        name = "openai/gpt-5.6" if field == "max_completion_tokens" else "openai/m"
        model = direct(name, api_base=provider.url, api_key=KEY)
        with pytest.raises(ParameterNameError, match=field):
            await model.complete(request(cache_key="k"), Collected())
        for _ in range(2):
            assert (await model.complete(request(cache_key="k"), Collected())).text == "Oslo"
        assert len(provider.requests) == 3


# Addresses and keys


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/messages"])
async def test_anthropic_s_address_may_be_given_in_any_form(end: str) -> None:
    with Provider() as provider:
        model = direct("anthropic/claude-haiku-4-5", api_base=provider.root + end, api_key=KEY)
        assert (await model.complete(request())).text == "hello"
        assert provider.requests[0].path == "/v1/messages"


@pytest.mark.parametrize("provider_id", sorted(DOORS))
async def test_address_key_and_headers_come_from_the_environment(
    provider_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = DOORS[provider_id]
    with Provider() as provider:
        monkeypatch.setenv(door.bases[-1], provider.root if door.api == "anthropic" else provider.url)
        monkeypatch.setenv(door.key, KEY)
        for header, name in door.headers:
            monkeypatch.setenv(name, f"my {header}")
        assert (await direct(f"{provider_id}/m").complete(request())).text == "hello"
        (seen,) = provider.requests
    assert KEY in (seen.headers.get("x-api-key"), seen.headers.get("authorization", "").removeprefix("Bearer "))
    for header, _ in door.headers:
        assert seen.headers[header.lower()] == f"my {header}"


async def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    with pytest.raises(AuthenticationError, match="GROQ_API_KEY is not set"):
        await direct("groq/m", api_base="http://127.0.0.1:9/v1").complete(request())


@pytest.fixture(name="certificate")
def _certificate(tmp_path: Path) -> Path:
    pem = tmp_path / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", str(tmp_path / "ca.pem")),
        ],
        check=True,
        capture_output=True,
    )
    pem.write_text(pem.read_text() + (tmp_path / "ca.pem").read_text())
    return tmp_path / "ca.pem"


@pytest.mark.needs("openssl")
async def test_an_own_certificate_is_trusted_by_its_file_alone(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.with_name("server.pem"))
    with Provider(tls=tls) as provider:
        model = direct("openai/m", api_base=provider.url, api_key=KEY)
        with pytest.raises(ModelConnectionError, match="certificate"):
            await model.complete(request())
        await close_all()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await model.complete(request())).text == "hello"
        await close_all()
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setenv("SSL_VERIFY", "False")
        assert (await model.complete(request())).text == "hello"
