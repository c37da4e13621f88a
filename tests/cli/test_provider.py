"""The installed command on a provider's server, as a user runs it."""

import json
import signal
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import MANY, ONE, apart, gone, read_until, start
from tests.provider import Answer, Provider

KEY = "sk-never-to-be-seen"
Serve = Callable[..., tuple[Provider, dict[str, str]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a provider; gives it, and the environment that leads to it."""
    running: list[Provider] = []

    def begin(script: Any) -> tuple[Provider, dict[str, str]]:
        provider = Provider(script)
        provider.__enter__()
        running.append(provider)
        return provider, {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY, "PYTHONWARNINGS": ""}

    yield begin
    for provider in running:
        provider.__exit__()


def test_a_key_in_the_environment_is_all_that_a_run_needs(pipeline: Any, serve: Serve) -> None:
    provider, env = serve(Answer("from afar"))
    done = apart("run", pipeline(ONE), "write", env=env)
    assert (done.code, done.out) == (0, "from afar\n")
    assert "; profile openai; bulk=openai/" in done.err.splitlines()[0]
    assert "\n1 call; 7 tokens in, 3 out; " in done.err
    assert "arning" not in done.err  # nor anything else that a library has to say
    assert len(provider.requests) == 1


def test_a_key_that_is_refused_is_exit_3_and_never_shown(pipeline: Any, serve: Serve) -> None:
    _, env = serve(Answer(f"Incorrect API key provided: {KEY}", status=401))
    done = apart("run", pipeline(ONE), "write", "--json", "--debug", env=env)
    assert done.code == 3
    assert json.loads(done.out)["error"]["reason"] == "AuthenticationError"
    assert KEY not in done.out + done.err


WIDE = """
stages:
  work: {kind: map, over: "range(200) | list", role: bulk, prompt: "do {{ item.source }}"}
  answer: {kind: merge, over: work, strategy: concat}
output: answer
"""


@pytest.mark.parametrize("verbose", [(), ("-v",)])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("Incorrect API key provided", status=401), "AuthenticationError"),
        (Answer("The model does not exist", status=404), "BadRequestError"),
        (Answer("Insufficient credits", status=402), "AuthenticationError"),
    ],
    ids=["wrong key", "no such model", "no credit"],
)
def test_a_fault_of_all_calls_is_one_error_and_few_lines(
    pipeline: Any, serve: Serve, answer: Answer, reason: str, verbose: tuple[str, ...]
) -> None:
    provider, env = serve(answer)
    done = apart("run", pipeline(WIDE), *verbose, env=env)
    assert done.code == 3
    assert done.err.count(reason) == (3 if verbose else 1)  # with -v its first call, and the count of the others
    assert len(done.err.splitlines()) <= 15
    assert len(provider.requests) <= 16


def test_ctrl_c_hangs_up_on_the_provider_and_leaves_nothing_behind(pipeline: Any, serve: Serve) -> None:
    provider, env = serve(lambda seen: Answer(hang="slow" in json.dumps(seen.body)))
    process = start("run", pipeline(MANY), "a,slow,c", "--json", "-v", env=env, start_new_session=True)
    with process:
        read_until(process.stderr, b"work 1: work by", b"work 3: work by")
        assert provider.wait_until(lambda p: len(p.requests) == 3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    result = json.loads(out)
    assert process.returncode == 130
    assert result["error"]["reason"] == "Interrupted"
    assert [item["value"] for item in result["items"]] == ["hello", "hello"]
    assert b"Traceback" not in err
    assert gone(process)
    assert provider.wait_until(lambda p: p.open == 0)


def test_the_receipt_counts_cached_tokens_at_the_prices_of_the_settings(
    pipeline: Any, serve: Serve, tmp_path: Path
) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 600}}
    provider, env = serve(Answer("cheap", usage=usage))
    own = tmp_path / "own.toml"
    own.write_text(
        f'[endpoints.mine]\nmodel = "m"\napi_base = "{provider.url}"\n'
        "price = {input = 1000, output = 2000, cache_read = 100}\n"
    )
    done = apart("run", pipeline(ONE), "write", "-m", "mine", "--json", env={**env, "FUSION_CONFIG": str(own)})
    assert done.code == 0
    assert Decimal(json.loads(done.out)["cost"]["usd"]) == Decimal("0.48")  # 400 + 60 + 20 thousandths
