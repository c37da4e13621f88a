"""The price file: its age wherever prices are shown, and a newer one fetched on request, checked and kept."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from fusion import Settings
from fusion.core.errors import FetchError, PolicyError, UsageError
from fusion.models import catalog
from fusion.models.catalog import price_file
from fusion.models.catalog import update as updating
from fusion.models.gateway import Gateway
from tests.cli.conftest import Command
from tests.cli.conftest import command as command  # a fixture
from tests.provider import Answer, Provider

MODEL = "openai/gpt-5.6"
TODAY = datetime.now(UTC).date()


def priced(usd: Any, name: str = "gpt-5.6") -> dict[str, Any]:
    return {
        name: {
            "litellm_provider": "openai",
            "mode": "chat",
            "input_cost_per_token": usd,
            "output_cost_per_token": usd,
            "max_input_tokens": 100_000,
        }
    }


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder of the user's, and a key."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0")
    monkeypatch.chdir(tmp_path)
    price_file.forget()
    yield price_file.price_folder()
    price_file.forget()


Reply = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A server on loopback that answers each path by a function."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.replies[self.path](self)

            def log_message(self, *words: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def url(self, path: str, reply: Reply) -> str:
        self.replies[path] = reply
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self) -> None:
        if not self.thread.is_alive():
            return
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def says(body: bytes, status: int = 200, **headers: str) -> Reply:
    def reply(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return reply


def cut_short(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b'{"a": ')


# Age.


def test_the_age_of_the_installed_file_is_that_of_its_build() -> None:
    origin = price_file.origin()
    assert re.fullmatch(r"litellm \d+\.\d+\.\d+, built \d{4}-\d\d-\d\d", origin.label)
    assert origin.day is not None
    assert origin.day <= TODAY
    assert f"({(TODAY - origin.day).days} day" in origin.words


def test_an_old_file_names_the_way_to_newer_prices() -> None:
    old = price_file.Origin("litellm 1.0", TODAY - timedelta(days=61))
    assert old.words.endswith("(61 days old); `fusion models update` fetches newer ones")
    assert "update" not in price_file.Origin("litellm 1.0", TODAY - timedelta(days=60)).words
    assert price_file.Origin("litellm", None).words.startswith("litellm (age unknown)")


@pytest.mark.parametrize("words", [["models"], ["quote", "single", "hello"]])
def test_prices_are_shown_with_their_age(command: Command, words: list[str]) -> None:
    ran = command(*words)
    assert ran.code == 0
    assert re.search(r"[Pp]rices: litellm [\d.]+, built \d{4}-\d\d-\d\d \(\d+ days? old\)", ran.out)


def test_receipts_and_quotes_name_the_file_of_each_price(command: Command) -> None:
    source = catalog.lookup(MODEL).price_source
    assert source == f"{price_file.origin().label} (gpt-5.6)"
    quote = json.loads(command("quote", "single", "hello", "--json").out)
    assert quote["stages"][0]["lines"][0]["price_source"] == source


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    with Provider(Answer("4")) as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("FUSION_STORE", "runs.db")
        yield running


def test_a_receipt_says_the_day(command: Command, provider: Provider) -> None:
    day = price_file.origin().day
    ran = command("run", "single", "2 + 2?", "-m", MODEL)
    assert (ran.code, ran.out) == (0, "4\n")
    assert f" measured, prices of {day}" in ran.err
    assert f"prices of {day}" in command("runs", "show", "latest").out


def test_a_benchmark_says_the_day(command: Command, provider: Provider, tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text('{"id": "1", "question": "2 + 2?", "answer": "4"}\n')
    ran = command("bench", "sums.jsonl", "-m", MODEL, "--scorer", "number", "-o", "out")
    assert ran.code == 0, ran.err
    assert f"{price_file.origin().label} (gpt-5.6)" in (tmp_path / "out" / "report.md").read_text()


# Update.


def test_a_job_is_resumed_after_an_update_of_the_same_prices(
    command: Command, provider: Provider, tmp_path: Path
) -> None:
    words = ("run", "single", "2 + 2?", "-m", MODEL, "--resume-or-start")
    provider.script = Answer(status=400)
    assert command(*words).code == 3
    first = json.loads(command("runs", "list", "--json").out)
    entry = {"gpt-5.6": dict(price_file.entries()["gpt-5.6"])}
    (tmp_path / "same.json").write_text(json.dumps(entry))
    assert command("models", "update", "--from", "same.json").code == 0
    provider.script = Answer("4")
    assert command(*words).code == 0
    assert len(json.loads(command("runs", "list", "--json").out)) == len(first) == 1


@pytest.mark.parametrize("indent", [None, 2, 4])
def test_a_newer_file_counts_from_then_on(command: Command, tmp_path: Path, indent: int | None) -> None:
    before = catalog.lookup(MODEL).price
    (tmp_path / "newer.json").write_text(json.dumps(priced(0.001), indent=indent))
    ran = command("models", "update", "--from", "newer.json")
    assert ran.code == 0
    assert ran.out.startswith(f"prices: prices from {tmp_path / 'newer.json'}, fetched {TODAY} (0 days old)\nbefore:")
    info = catalog.lookup(MODEL)
    assert info.price is not None
    assert (info.price.input, info.context) == (Decimal("0.001"), 100_000)
    assert f"fetched {TODAY}" in info.price_source
    other = catalog.lookup("anthropic/claude-opus-5-5")  # which the newer file lacks
    assert (other.price is not None, "built" in other.price_source) == (True, True)
    assert f"fetched {TODAY} (0 days old)" in command("quote", "single", "hello").out
    assert command("models", "update", "--reset").out.startswith("prices: litellm ")
    assert catalog.lookup(MODEL).price == before
    assert command("models", "update", "--reset").out.endswith("as before\n")


def test_it_is_fetched_from_a_mirror(command: Command, server: Server, cache: Path) -> None:
    raw = json.dumps(priced(0.002)).encode()
    moved = server.url("/old", says(b"", 302, Location="/prices.json"))
    server.url("/prices.json", says(raw))
    ran = command("models", "update", "--from", moved)
    assert (ran.code, "from 127.0.0.1, fetched" in ran.out) == (0, True)
    about = json.loads((cache / "about.json").read_text())
    assert (about["sha256"], about["fetched"]) == (hashlib.sha256(raw).hexdigest(), str(TODAY))


def test_without_a_source_litellms_own_address_is_asked(
    command: Command, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert updating.OFFICIAL.startswith("https://raw.githubusercontent.com/BerriAI/litellm/")
    monkeypatch.setattr(updating, "OFFICIAL", server.url("/main", says(json.dumps(priced(0.003)).encode())))
    assert command("models", "update").code == 0
    price = catalog.lookup(MODEL).price
    assert price is not None
    assert price.output == Decimal("0.003")


NETWORK: dict[str, tuple[Reply, str]] = {
    "not found": (says(b"", 404), "cannot fetch prices from 127.0.0.1: Not Found"),
    "broken": (says(b"", 500), "Internal Server Error"),
    "page": (says(b"<html>login</html>"), "sent no price file: it is no JSON"),
    "cut short": (cut_short, "it sent 6 of 1,000 bytes"),
    "another place": (says(b"", 302, Location="http://example.org/x"), "'http://example.org/x', which is not asked"),
    "file": (says(b"", 302, Location="file:///etc/passwd"), "cannot fetch prices"),
    "list": (says(b"[1]"), "expected a JSON object with an entry for each model"),
}


@pytest.mark.parametrize(("reply", "words"), NETWORK.values(), ids=NETWORK)
def test_a_failure_of_the_network_keeps_the_prices(
    command: Command, server: Server, tmp_path: Path, reply: Reply, words: str
) -> None:
    (tmp_path / "good.json").write_text(json.dumps(priced(0.004)))
    assert command("models", "update", "--from", "good.json").code == 0
    ran = command("models", "update", "--from", server.url("/x", reply))
    assert (ran.code, ran.out) == (3, "")
    assert words in ran.err
    price = catalog.lookup(MODEL).price
    assert price is not None
    assert price.input == Decimal("0.004")


def test_a_server_that_is_down_ends_with_3(command: Command, server: Server) -> None:
    address = server.url("/x", says(b"{}"))
    server.close()
    ran = command("models", "update", "--from", address)
    assert (ran.code, ran.out) == (3, "")
    assert "Connection refused; the prices in use are kept (`--from FILE` takes a copy of the file)" in ran.err


def test_a_body_without_end_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updating, "_LARGEST", 10_000)
    with pytest.raises(FetchError, match="more than 10,000 bytes"):
        updating.update(server.url("/x", says(b" " * 200_000)))


def test_a_body_that_drips_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updating, "_WHOLE_SECONDS", 0)
    with pytest.raises(FetchError, match="takes more than 0 s"):
        updating.update(server.url("/x", says(b" " * 200_000)))


FILES = {
    "empty": (b"", "it is no JSON"),
    "no UTF-8": (b"\xff\xfe", "it is no JSON"),
    "empty object": (b"{}", "expected a JSON object with an entry for each model"),
    "entries of text": (b'{"a": "b"}', "the entry 'a' is no object"),
    "no prices": (b'{"a": {"b": 1}}', "no entry has `litellm_provider` and `input_cost_per_token`"),
    "price below zero": (json.dumps(priced(-1)).encode(), "input_cost_per_token of 'gpt-5.6' is '-1', no price"),
    "price of text": (json.dumps(priced("free")).encode(), "is 'free', no price"),
    "infinite price": (b'{"a": {"input_cost_per_token": Infinity}}', "is 'inf', no price"),
    "deep": (b'{"a":' * 100_000, "no price file"),
}


@pytest.mark.parametrize(("raw", "words"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_price_file_is_refused(command: Command, tmp_path: Path, raw: bytes, words: str) -> None:
    (tmp_path / "bad.json").write_bytes(raw)
    ran = command("models", "update", "--from", "bad.json")
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert "the prices in use are kept" in ran.err
    assert price_file.origin().name.startswith("litellm")


USAGE = [
    (["--from", "missing.json"], "cannot read 'missing.json': No such file or directory"),
    (["--from", "http://example.org/prices.json"], "is not asked: give an https:// address, or a file"),
    (["--from", "ftp://example.org/prices.json"], "is not asked"),
    (["--reset", "--from", "x"], "--reset takes no --from"),
]


@pytest.mark.parametrize(("words", "told"), USAGE)
def test_bad_options(command: Command, words: list[str], told: str) -> None:
    ran = command("models", "update", *words)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err


@pytest.mark.parametrize("harm", ["changed", "truncated", "no record", "bad record"])
def test_a_kept_file_that_is_not_the_fetched_one_does_not_count(tmp_path: Path, cache: Path, harm: str) -> None:
    before = catalog.lookup(MODEL).price
    (tmp_path / "newer.json").write_text(json.dumps(priced(0.001)))
    updating.update(str(tmp_path / "newer.json"))
    if harm == "changed":
        (cache / "prices.json").write_text(json.dumps(priced(0.0)))
    elif harm == "truncated":
        (cache / "prices.json").write_bytes((cache / "prices.json").read_bytes()[:50])
    elif harm == "no record":
        (cache / "about.json").unlink()
    else:
        (cache / "about.json").write_text("[]")
    price_file.forget()
    assert catalog.lookup(MODEL).price == before
    assert price_file.origin().name.startswith("litellm")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, cache: Path) -> None:
    cache.parent.parent.mkdir(parents=True, exist_ok=True)
    cache.parent.write_text("a file")
    (tmp_path / "newer.json").write_text(json.dumps(priced(0.001)))
    with pytest.raises(UsageError, match="cannot write to"):
        updating.update(str(tmp_path / "newer.json"))


def test_a_fetched_price_gets_no_model_below_a_limit_of_the_policy(tmp_path: Path) -> None:
    (tmp_path / "fusion.toml").write_text("[policy]\nmax_price = {output = 5}\n")
    (tmp_path / "cheap.json").write_text(json.dumps(priced(0.0000001)))
    updating.update(str(tmp_path / "cheap.json"))
    with pytest.raises(PolicyError, match=r"max_price = \{output = 5\} forbids 'openai/gpt-5.6'.*at \$20 for"):
        Gateway(Settings.from_environment()).check(MODEL)
