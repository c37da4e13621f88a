"""fusion models: the list, and pulling weights."""

from pathlib import Path

import pytest

from fusion.models.providers.local import weights
from tests.cli.conftest import Command, small_tier

AZURE = ("AZURE_API_KEY,", "AZURE_API_BASE,", "AZURE_API_VERSION:")
DATA = b"GGUF" + bytes(3_000_000)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds the weights of the one tier there is; they are pulled into another."""
    tier = small_tier(DATA)
    monkeypatch.setattr(weights, "manifest", lambda: {"small": tier, "strong": tier})
    monkeypatch.setenv("FUSION_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.delenv("FUSION_MODELS_SOURCE", raising=False)
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "small.gguf").write_bytes(DATA)
    return tmp_path


def test_the_list_says_of_each_role_what_it_needs_and_costs(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-never-to-be-seen")
    in_use = command("models").out.splitlines()
    assert {line.split()[0] for line in in_use[1 : in_use.index("")]} == {"anthropic"}
    assert in_use[-1] == "the other profiles: fusion models --all"
    done = command("models", "--all")
    lines = [line.split() for line in done.out.splitlines()]
    assert done.code == 0
    head = "profile role model needs in out in batches context output region"
    assert lines[0] == head.split()
    claude = "anthropic * frontier anthropic/claude-opus-5-5 ANTHROPIC_API_KEY: set 4.00 20.00 2.00/10.00 1,000,000"
    assert [*claude.split(), "128,000", "global"] in lines
    assert [line[3] for line in lines if line[:3] == ["anthropic", "*", "bulk"]][1] == "anthropic/claude-haiku-4-5"
    assert any(line[0] == "openai" and line[4:6] == ["not", "set"] for line in lines)
    assert any(line[:2] == ["azure", "bulk"] and line[3:6] == list(AZURE) for line in lines)
    small = "local bulk local/small weights: not here free free none 2,048 unknown here"
    assert small.split() in lines
    assert "sk-never" not in done.out + done.err


@pytest.mark.parametrize(
    ("model_id", "key", "prices"),
    [
        ("openai/gpt-5.6", "OPENAI_API_KEY", "2.00/10.00"),
        ("gemini/gemini-3.8-flash", "GEMINI_API_KEY", "0.38/1.88"),
        ("openrouter/openai/gpt-5.6", "OPENROUTER_API_KEY", "2.00/10.00"),
        ("groq/llama-9", "GROQ_API_KEY", "unknown"),
        ("deepseek/deepseek-chat", "DEEPSEEK_API_KEY", "none"),
        ("mine", "MINE", "0.50/2.00"),
        ("other", "MINE", "none"),
    ],
)
def test_list_and_doctor_say_what_a_batch_costs(
    command: Command, model_id: str, key: str, prices: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = 'model = "m"\napi_base = "http://127.0.0.1:9/v1"\nprice = {input = 1, output = 4}\nkey_env = "MINE"\n'
    (tmp_path / "fusion.toml").write_text(
        f'profile = "local"\n[roles.bulk]\nchain = ["{model_id}"]\n'
        f"[endpoints.mine]\n{server}batch = true\n[endpoints.other]\n{server}"
    )
    monkeypatch.setenv("FUSION_CONFIG", str(tmp_path / "fusion.toml"))
    monkeypatch.setenv(key, "sk-never-to-be-seen")
    rows = [line.split() for line in command("models").out.splitlines()]
    (row,) = [row for row in rows if row[:2] == ["local", "*"] and row[2] == "bulk"]
    assert row[3] == model_id
    assert prices in row
    doctor = command("doctor").out
    said = "price unknown" if prices == "unknown" else "50% of the price"
    assert (f"{model_id} ({said})" in doctor) == (prices != "none")


def test_the_list_is_there_also_when_the_profile_cannot_be_used(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSION_PROFILE", "openai")
    done = command("models")
    lines = done.out.splitlines()
    assert (done.code, {line.split()[0] for line in lines[1 : lines.index("")]}) == (0, {"openai"})


def test_weights_are_pulled_with_lines_off_a_terminal(command: Command, folder: Path) -> None:
    done = command("models", "pull", "small", "--source", str(folder / "given"))
    assert (done.code, done.out) == (0, f"small: {folder / 'models' / 'small.gguf'}\n")
    assert done.err.startswith(f"small: from {folder / 'given'}, 0 of 3 MB\n")
    assert (folder / "models" / "small.gguf").read_bytes() == DATA
    again = command("models", "pull", "small", "--source", str(folder / "given"))
    assert (again.code, again.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["huge"], "no embedded model 'huge'"),
        (["small", "--source", "/no/such/folder"], "no source '/no/such/folder'"),
        (["small"], "no source gave the weights of 'small'"),
    ],
)
def test_what_cannot_be_pulled_is_a_usage_error(command: Command, folder: Path, words: list[str], says: str) -> None:
    done = command("models", "pull", *words)
    assert (done.code, done.out) == (2, "")
    assert says in done.err


def test_nothing_to_pull_is_a_usage_error(command: Command, folder: Path) -> None:
    assert command("models", "pull").code == 2
