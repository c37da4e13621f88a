"""Ceilings of fusion.toml: requests, tokens and calls at once, as a server on loopback counts them."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusion import Fusion, Result, UsageError
from tests.conftest import Write, own_settings
from tests.provider import Answer, Provider, Seen

WIDE = """
stages: {a: {kind: map, over: "range(%d) | list", role: bulk, concurrency: 50, prompt: "{{ item.source }}"}}
output: a
"""


class Counting:
    """A script that keeps the time of each request, and the number in flight."""

    def __init__(self, delay: float = 0.0, usage: int = 10) -> None:
        self.times: list[float] = []
        self.models: list[str] = []
        self.delay = delay
        self.usage = {"prompt_tokens": usage, "completion_tokens": 3}
        self._lock = threading.Lock()

    def __call__(self, seen: Seen) -> Answer:
        with self._lock:
            self.times.append(time.monotonic())
            self.models.append(seen.body["model"])
        return Answer("fine", delay=self.delay, usage=self.usage)

    @property
    def seconds(self) -> float:
        return max(self.times) - min(self.times)

    @property
    def most(self) -> int:
        """The most requests in flight, if each takes its delay."""
        return max(sum(at <= one < at + 0.8 * self.delay for one in self.times) for at in self.times)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the user's own fusion.toml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")

    return own_settings(tmp_path, monkeypatch)


@pytest.fixture
def counting() -> Iterator[tuple[Counting, str]]:
    script = Counting(delay=0.05)
    with Provider(script) as provider:
        yield script, provider.url


def endpoint(url: str, more: str = "", name: str = "mine") -> str:
    return f'[endpoints.{name}]\nmodel = "{name}"\napi_base = "{url}"\n{more}\n'


def work(items: int, **options: object) -> Result:
    Path("wide.yaml").write_text(WIDE % items)
    with Fusion(**options) as fusion:  # type: ignore[arg-type]
        return fusion.complete(None, pipeline="wide.yaml")


@pytest.mark.parametrize(
    "limits",
    [
        "[limits]\nrpm = 1200\n",
        "[limits.mine]\nrpm = 1200\n",
        "[limits]\nrpm = 60\n[limits.mine]\nrpm = 1200\n",
        "[limits.other]\nrpm = 1\n[limits]\nrpm = 1200\n",
        "endpoint: rpm = 1200",
        "[limits]\nrpm = 6000\nendpoint: rpm = 1200",
    ],
)
def test_requests_a_minute_are_spaced(write: Write, counting: tuple[Counting, str], limits: str) -> None:
    script, url = counting
    others, _, own = limits.partition("endpoint: ")
    write(endpoint(url, own) + others)
    assert work(9, model="mine").status == "ok"
    assert len(script.times) == 9
    assert 0.3 <= script.seconds < 3  # 8 intervals of 50 ms


@pytest.mark.parametrize(
    "limits",
    [
        "[limits]\nconcurrency = 3\n",
        "[limits.mine]\nconcurrency = 3\n",
        "[limits]\nconcurrency = 30\n[limits.mine]\nconcurrency = 3\n",
        "endpoint: concurrency = 3",
        "[limits]\nconcurrency = 3\nendpoint: concurrency = 9",
    ],
)
def test_calls_at_once_are_bounded(write: Write, counting: tuple[Counting, str], limits: str) -> None:
    script, url = counting
    script.delay = 0.2
    others, _, own = limits.partition("endpoint: ")
    write(endpoint(url, own) + others)
    assert work(9, model="mine").status == "ok"
    assert script.most == 3


@pytest.mark.parametrize(
    "limits", ["[limits]\ntpm = 60000\n", "[limits.mine]\ntpm = 60000\n", "endpoint: tpm = 60000"]
)
def test_tokens_a_minute_are_counted_as_replies_tell_them(
    write: Write, counting: tuple[Counting, str], limits: str
) -> None:
    script, url = counting
    script.usage = {"prompt_tokens": 90, "completion_tokens": 10}  # 100 tokens a call: ten calls a second
    others, _, own = limits.partition("endpoint: ")
    write(endpoint(url, own) + others)
    Path("wide.yaml").write_text((WIDE % 12).replace("prompt:", "max_tokens: 20, prompt:"))
    with Fusion(model="mine") as fusion:
        fusion.complete(None, pipeline="wide.yaml")
    assert 0.5 <= script.seconds < 4


def test_a_provider_has_one_ceiling_for_all_its_models(
    write: Write, counting: tuple[Counting, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, url = counting
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    write("[limits.openai]\nrpm = 1200\n")
    stage = "{kind: map, over: 'range(5) | list', role: ROLE, prompt: '{{ item.source }}'}"
    stages = "".join(
        f"  {name}: {stage.replace('ROLE', role)}\n" for name, role in (("a", "bulk"), ("b", "frontier"))
    )
    Path("two.yaml").write_text(f"stages:\n{stages}output: {{a: a, b: b}}\n")
    with Fusion(roles={"bulk": "openai/gpt-5.6-luna", "frontier": "openai/gpt-5.6"}) as fusion:
        assert fusion.complete(None, pipeline="two.yaml").status == "ok"
    assert len(set(script.models)) == 2
    assert 0.4 <= script.seconds < 4


def test_all_runs_share_a_ceiling(write: Write, counting: tuple[Counting, str]) -> None:
    script, url = counting
    write(endpoint(url) + "[limits]\nrpm = 1200\n")
    Path("wide.yaml").write_text(WIDE % 3)
    with Fusion(model="mine") as fusion:
        handles = [fusion.start(None, pipeline="wide.yaml") for _ in range(3)]
        assert [handle.wait().status for handle in handles] == ["ok"] * 3
    assert 0.3 <= script.seconds < 4


def test_a_project_may_only_lower_a_ceiling(
    write: Write, counting: tuple[Counting, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, url = counting
    (tmp_path / "fusion.toml").write_text("[limits]\nrpm = 1200\n[limits.mine]\nrpm = 99999\n")
    write(endpoint(url) + "[limits]\nrpm = 2400\n")
    assert work(9, model="mine").status == "ok"
    assert 0.13 <= script.seconds < 3
    (tmp_path / "fusion.toml").write_text("[limits.mine]\nrpm = 1200\n")
    script.times.clear()
    assert work(9, model="mine").status == "ok"
    assert 0.3 <= script.seconds < 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[limits]\nrmp = 5\n", r"fusion\.toml:2:1 limits\.rmp: unknown key 'rmp'; did you mean 'rpm'\?"),
        ("[limits.openai]\nrmp = 5\n", r"fusion\.toml:2:1 limits\.openai\.rmp: unknown key 'rmp'"),
        ("[limits.openai]\nrpm = 0\n", r"fusion\.toml:2:1 limits\.openai\.rpm: expected more than 0, got 0"),
        ('[limits."openai/x"]\ntpm = true\n', r"fusion\.toml:2:1 limits\.openai/x\.tpm: expected a whole number"),
        ('[limits]\nconcurrency = "a"\n', r"fusion\.toml:2:1 limits\.concurrency: expected a whole number, got 'a'"),
        ('[limits."local/small"]\nrpm = 1\n', r"limits\.local/small: 'local/small' is an embedded model"),
        ("[limits.openai]\nusd = 1\n", r"fusion\.toml:2:1 limits\.openai\.usd: unknown key 'usd'"),
    ],
)
def test_mistakes_are_named_with_their_place(write: Write, text: str, message: str) -> None:
    write(text)
    with pytest.raises(UsageError, match=message):
        Fusion(model="mine")
