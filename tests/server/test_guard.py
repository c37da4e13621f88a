"""The guard: tokens, hosts, origins and bounds, over real sockets."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from fusion import Fusion
from fusion.server.listener.protocol import BoundedProtocol
from tests.server.conftest import Held, Serve, Served, models_of, pipeline, serving

TOKEN = "s3cret-token-of-the-test"
CI = "another-token-of-the-test"
PATHS = ("/v1/chat/completions", "/v1/messages")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with two callers."""
    table = {
        "tokens": {"ci": "CI_SECRET"},
        "allowed_origins": ["https://chat.example.org"],
        "allowed_hosts": ["fusion.example.org"],
    }
    models = models_of("the answer")
    store = tmp_path_factory.mktemp("guarded") / "runs.db"
    with ExitStack() as running:
        fusion = running.enter_context(Fusion(profile="local", roles=models, store=store))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FUSION_SERVER_TOKEN", TOKEN)
            patch.setenv("CI_SECRET", CI)
            served = running.enter_context(serving(fusion, models, table=table))
        yield served


def raw(served: Served, data: bytes, *, more: float = 5) -> bytes:
    """What the server says to these bytes, until it closes the connection."""
    place = urlsplit(served.url)
    with socket.create_connection((place.hostname, place.port), timeout=more) as connection:
        connection.sendall(data)
        said = b""
        while piece := connection.recv(65536):
            said += piece
    return said


def asked(served: Served, headers: dict[Any, Any], path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    with served.client() as client:
        body = served.chat(max_tokens=50, **more)
        return client.post(path, json=body, headers=headers)


def calls(served: Served) -> int:
    return sum(len(model.requests) for model in served.models.values())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer"},
        {"x-api-key": ""},
        {"x-api-key": "\u00e9".encode()},
        {"cookie": "fusion_token=wrong"},
    ],
)
def test_a_missing_or_wrong_token_is_refused_in_each_shape(guarded: Served, headers: dict[str, str]) -> None:
    before = calls(guarded)
    for path in PATHS:
        said = asked(guarded, headers, path)
        assert said.status_code == 401
        assert said.headers["x-should-retry"] == "false"
        assert said.json()["error"]["type"] == "authentication_error"
    assert calls(guarded) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer  {TOKEN}"},
        {"x-api-key": TOKEN},
        {"cookie": f"other=1; fusion_token={TOKEN}"},
        {"authorization": f"Bearer {CI}"},
    ],
)
def test_a_known_token_is_taken(guarded: Served, headers: dict[str, str]) -> None:
    assert asked(guarded, headers).status_code == 200


def test_health_needs_no_token_and_all_else_does(guarded: Served) -> None:
    with guarded.client() as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200
        for path in ("/v1/models", "/metrics", "/v1/models/echo", "/nothing"):
            assert client.get(path).status_code == 401, path


def test_a_pipeline_of_one_caller_is_hidden_from_others(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_SERVER_TOKEN", TOKEN)
    monkeypatch.setenv("CI_SECRET", CI)
    table = {
        "tokens": {"ci": "CI_SECRET"},
        "pipelines": {"free": "single", "dear": {"pipeline": "single", "callers": ["ci"]}},
    }
    served = serve(table=table, pipelines=None, everything=True)
    with served.client(headers={"x-api-key": TOKEN}) as client:
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["free"]
        assert client.get("/v1/models/dear").status_code == 404
        assert client.post("/v1/chat/completions", json=served.chat(model="dear")).status_code == 404
    with served.client(headers={"x-api-key": CI}) as client:
        assert client.post("/v1/chat/completions", json=served.chat(model="fusion/dear")).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "0x7f.1", "", "127.0.0.1:1@evil", "[::2]"]
)
def test_a_foreign_host_name_is_refused(echo: Served, host: str) -> None:
    before = calls(echo)
    said = asked(echo, {"host": host})
    assert (said.status_code, said.json()["error"]["code"]) == (403, "host")
    assert calls(echo) == before


def test_two_host_headers_or_none_are_refused(echo: Served) -> None:
    for hosts in ("", "Host: localhost\r\nHost: evil.example\r\n"):
        said = raw(echo, f"GET /v1/models HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
        assert said.startswith(b"HTTP/1.1 403"), hosts


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8484", "[::1]:99", "fusion.example.org", "FUSION.example.org:1"]
)
def test_known_host_names_are_taken(serve: Serve, host: str) -> None:
    assert asked(serve(table={"allowed_hosts": ["fusion.example.org"]}), {"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"origin": "https://chat.example.org.evil.example"},
        {"origin": "file://"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ],
)
def test_a_foreign_web_page_is_refused(guarded: Served, headers: dict[str, str]) -> None:
    before = calls(guarded)
    said = asked(guarded, {"x-api-key": TOKEN, **headers})
    assert (said.status_code, said.json()["error"]["code"]) == (403, "origin")
    assert "access-control-allow-origin" not in said.headers
    assert calls(guarded) == before


def test_an_allowed_web_page_may_read_the_answer(guarded: Served) -> None:
    page = {"origin": "https://chat.example.org"}
    with guarded.client(headers=page) as client:
        before = client.options("/v1/chat/completions", headers={"access-control-request-headers": "authorization"})
    assert (before.status_code, before.headers["access-control-allow-headers"]) == (204, "authorization")
    said = asked(guarded, {**page, "x-api-key": TOKEN})
    assert said.headers["access-control-allow-origin"] == "https://chat.example.org"
    assert "x-fusion-run" in said.headers["access-control-expose-headers"]


def test_a_page_of_the_server_itself_is_taken(echo: Served) -> None:
    assert asked(echo, {"origin": echo.url}).status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[" * 300 + b"]" * 300, "recursion limit"),
        (b'{"model": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"seed": 1e999}', "out of range"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b"{\xff}", "not valid JSON"),
        (b'{"seed": NaN}', "not valid JSON"),
        (b"", "not valid JSON"),
        (b'["echo"]', "no JSON object"),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_no_sound_json_is_refused(echo: Served, path: str, body: bytes, said: str) -> None:
    with echo.client() as client:
        for content in (body, iter([body[:100], body[100:]])):
            answer = client.post(path, content=content)
            assert answer.status_code == 400
            assert said in answer.json()["error"]["message"]


def test_a_body_beyond_its_bound_is_refused(serve: Serve) -> None:
    body = b'{"a": "' + b"x" * 6000 + b'"}'
    with serve(table={"max_body": 5_000}).client() as client:
        for path in PATHS:
            for content in (body, iter([body[:100], body[100:]])):
                answer = client.post(path, content=content)
                assert answer.status_code == 413
                assert "5,000 bytes" in answer.json()["error"]["message"]


def test_a_body_of_many_brackets_is_refused(echo: Served) -> None:
    with echo.client() as client:
        said = client.post("/v1/chat/completions", content=b"[" + b"[]," * 500_001 + b"1]")
    assert (said.status_code, said.json()["error"]["code"]) == (413, "body_too_large")


def test_a_length_beyond_the_bound_is_refused_unread(echo: Served) -> None:
    place = urlsplit(echo.url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=5)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("content-length", "999999999999")
    connection.endheaders()
    said = connection.getresponse()
    assert (said.status, json.loads(said.read())["error"]["code"]) == (413, "body_too_large")
    connection.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"x" * 40_000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"X-Many: 1\r\n" * 5_000 + b"\r\n",
        b"GET /v1/models?" + b"q" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Endless: " + b"x" * 500_000,
        b"GET /" + b"x" * 500_000,
    ],
)
def test_large_heads_are_refused(echo: Served, head: bytes) -> None:
    said = b""
    place = urlsplit(echo.url)
    with socket.create_connection((place.hostname, place.port), timeout=5) as connection:
        try:
            connection.sendall(head)
            said = connection.recv(65536)
        except ConnectionError:
            pass  # closed before all of it was sent
    assert said[:12] in (b"HTTP/1.1 431", b"")
    assert asked(echo, {}).status_code == 200


def test_what_is_no_http_is_refused(echo: Served) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01\x00", b"HELO there\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        assert raw(echo, data).startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))
    assert asked(echo, {}).status_code == 200


def test_connections_beyond_the_bound_are_refused_while_all_are_in_use(serve: Serve) -> None:
    held = Held()
    served = serve(held, table={"connections": 3})
    place = urlsplit(served.url)
    body = json.dumps(served.chat()).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    with ExitStack() as stack:
        stack.callback(held.release.set)
        for _ in range(3):
            used = stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=5))
            used.sendall(head + body)
        while held.calls < 3:
            held.busy.wait(0.01)
        further = stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=5))
        said = further.recv(65536)
    assert said.startswith(b"HTTP/1.1 503")
    assert b"retry-after" in said


def test_a_connection_without_a_request_gives_way_to_a_further_one(serve: Serve) -> None:
    served = serve(table={"connections": 3})
    place = urlsplit(served.url)
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=5)) for _ in range(3)
        ]
        idle[0].sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert idle[0].recv(65536).startswith(b"HTTP/1.1 200")
        with served.client() as client:
            assert client.get("/healthz").status_code == 200
        assert idle[1].recv(65536) == b""
        idle[2].sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert idle[2].recv(65536).startswith(b"HTTP/1.1 200")


ALOUD = """
inputs: {prompt: A text.}
stages: {answer: {kind: render, template: "{{ inputs.prompt }}"}}
output: answer
"""


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_reads_nothing_is_dropped(serve: Serve, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = threading.Event()
    whole = BoundedProtocol.connection_lost
    monkeypatch.setattr(BoundedProtocol, "connection_lost", lambda self, error: (lost.set(), whole(self, error)))
    monkeypatch.setattr("fusion.server.listener.protocol._STALLED_SECONDS", 0.2)
    served = serve(pipelines={"aloud": pipeline(ALOUD)})
    place = urlsplit(served.url)
    body = json.dumps(served.chat("x" * 8_000_000, model="aloud", stream=stream)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    with socket.create_connection((place.hostname, place.port), timeout=10) as deaf:
        deaf.sendall(head + body)
        assert lost.wait(15)
        received = 0
        while piece := deaf.recv(1 << 20):
            received += len(piece)
    assert received < 8_000_000


def test_runs_beyond_the_queue_are_refused_with_a_time(serve: Serve) -> None:
    held = Held()
    served = serve(held, table={"concurrency": 1, "queue": 0})
    first = threading.Thread(target=asked, args=(served, {}))
    first.start()
    assert held.busy.wait(10)
    said = asked(served, {})
    held.release.set()
    first.join()
    assert (said.status_code, said.json()["error"]["code"]) == (429, "queue_full")
    assert int(said.headers["retry-after"]) >= 1
    assert "x-should-retry" not in said.headers
    assert asked(served, {}).status_code == 200


@pytest.mark.parametrize(
    "field", ["api_key", "api_base", "base_url", "model_list", "file", "extra_headers", "extra_query"]
)
def test_keys_and_addresses_of_a_body_have_no_effect(echo: Served, field: str) -> None:
    said = asked(echo, {}, **{field: "http://evil.example/v1"})
    assert said.status_code == 200
    assert said.headers["x-fusion-ignored"] == field
    assert "evil" not in str(echo.models["frontier"].requests)


def test_a_name_of_a_field_cannot_write_headers(echo: Served) -> None:
    said = asked(echo, {}, **{"x\r\nset-cookie: a=b": 1, "\u00fc": 2})
    assert said.status_code == 200
    assert "set-cookie" not in said.headers
