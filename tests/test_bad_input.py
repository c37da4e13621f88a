"""Bad input end to end: each gets a message that says what, where and what to do, its exit code, and no traceback."""

import functools
from collections.abc import Callable
from typing import Any

import pytest

from fusion import Fusion, Model
from tests.cli import conftest as cli
from tests.cli.conftest import BARE, ONE, Command, Ran
from tests.conftest import scripted

command = cli.command
pipeline = cli.pipeline

Run = Callable[..., Ran]
Write = Callable[[str], str]


@pytest.fixture
def run(command: Command, pipeline: Write, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`fusion run` of a pipeline's text; `model` is a script for every role, or a Model."""

    def start(text: str, *words: str, model: Any = "fine", stdin: bytes | None = None) -> Ran:
        from fusion.cli import session

        one = model if isinstance(model, Model) else scripted(model, "it")
        monkeypatch.setattr(session, "Fusion", functools.partial(Fusion, models={one.info.id: one}))
        done = command("run", pipeline(text), *words, "-m", one.info.id, stdin=stdin)
        assert "Traceback" not in done.err
        return done

    return start


# Models.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-m", "opnai/gpt-5.6"], "is known for the model 'opnai/gpt-5.6'; did you mean 'openai/gpt-5.6'"),
        (["-m", "claude-opus-55"], "did you mean 'anthropic/claude-opus-5-5'"),
        (["-m", "nonsense"], "role 'bulk': no provider is known for the model 'nonsense'; write it as"),
        (["-m", ""], "no provider is known for the model ''; write it as provider/model"),
        (["--role", "bulk=localai/x"], "no provider is known for the model 'localai/x'"),
        (["--role", "bulk=local/smal"], "no embedded model 'smal'"),
        (["-m", "local:/no/such.gguf"], "there is no file '/no/such.gguf'"),
        (["-m", "openai/gpt-99"], "OPENAI_API_KEY is not set. Set it, or choose another profile: `--profile local`"),
        (["-m", "gpt-5.6"], "OPENAI_API_KEY is not set"),
    ],
)
def test_a_model_that_cannot_be_called_is_refused_at_once(
    command: Command, pipeline: Write, words: list[str], says: str
) -> None:
    done = command("run", pipeline(BARE), *words)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert done.err.count("\n") == 1  # no run had begun


def test_a_model_without_a_known_price_runs_and_that_is_said(run: Run) -> None:
    from fusion.models.base import ModelInfo
    from fusion.models.scripted import ScriptedModel

    model = ScriptedModel("fine", info=ModelInfo(id="openai/gpt-5.6-lunna", provider="openai"))
    done = run(ONE, "x", model=model)
    assert (done.code, done.out) == (0, "fine\n")
    assert "no price is known for 'openai/gpt-5.6-lunna'" in done.err
    assert "did you mean 'openai/gpt-5.6-luna'" in done.err
