"""Which wire a model is asked by: Fusion's own or litellm's, by provider, endpoint and environment."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Settings, UsageError
from fusion.core.config import Endpoint
from fusion.models.base import ModelInfo
from fusion.models.catalog import describe, lookup
from fusion.models.profiles import load_profiles
from fusion.models.providers.direct import direct
from fusion.models.providers.doors import DOORS, wire_of
from fusion.models.providers.wire import with_path
from tests.models.providers.reader.test_thoughts import one
from tests.provider import Answer, Provider

KEY = "sk-of-a-test-0123456789"
pytestmark = pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning")
ADDRESSES = [
    ("http://localhost:8000/v1", "http://localhost:8000/v1/chat/completions"),
    ("http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions"),
    ("http://localhost:8000", "http://localhost:8000/chat/completions"),
    ("http://h/v1/chat/completions", "http://h/v1/chat/completions"),
    ("https://h/openai/v1?api-version=1", "https://h/openai/v1/chat/completions?api-version=1"),
]


@pytest.mark.parametrize(("base", "address"), ADDRESSES)
def test_the_address_of_a_call(base: str, address: str) -> None:
    assert with_path(base, "/chat/completions") == address


@pytest.mark.parametrize("model_id", ["nothing-known", "gemini/gemini-3.8-flash", "openai/"])
def test_there_is_no_door_to_other_providers(model_id: str) -> None:
    with pytest.raises(UsageError, match="provider/model"):
        direct(model_id)


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    return Settings(models_dir=tmp_path, local_threads=1, library_dir=tmp_path, keys=frozenset({"OPENAI_API_KEY"}))


WIRES = [
    ("direct", None, "direct"),
    ("litellm", None, "litellm"),
    ("direct", "litellm", "litellm"),
    ("litellm", "direct", "direct"),
]


@pytest.mark.parametrize(("all_of_them", "own", "used"), WIRES)
def test_an_endpoint_may_choose_its_wire(settings: Settings, all_of_them: Any, own: Any, used: str) -> None:
    with Provider() as provider:
        mine = Endpoint(model="m", api_base=provider.url, wire=own)
        chosen = settings.model_copy(update={"endpoints": {"mine": mine}, "wire": all_of_them})
        assert wire_of(describe("mine", chosen), chosen) == used
        with Fusion(settings=chosen, model="mine") as fusion:
            assert fusion.complete("Capital?", pipeline=one()).text == "hello"
        assert len(provider.requests) == 1


LOADED = """
import json, sys
from fusion.cli.app import run_command
code = run_command(["run", "one.yaml", "Capital?", *json.loads(sys.argv[1])])
print(code, "litellm" in sys.modules)
"""


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (["-m", "mine"], {}, "0 False"),
        (["-m", "slow"], {}, "0 True"),
        (["-m", "mine"], {"FUSION_WIRE": "litellm"}, "0 True"),
        (["-m", "openai/gpt-5.6"], {}, "0 False"),
        (["-m", "anthropic/claude-haiku-5-5"], {}, "0 False"),
        (["-m", "openrouter/openai/gpt-5.6"], {}, "0 False"),
        (["-m", "groq/openai/gpt-oss-20b"], {}, "0 False"),
        (["-m", "deepseek/deepseek-v4-flash"], {}, "0 False"),
        (["-m", "openai/gpt-5.6"], {"FUSION_WIRE": "litellm"}, "0 True"),
        (["-m", "openai/gpt-5.6"], {"FUSION_WIRE": "fast"}, "2 False"),
    ],
)
def test_litellm_is_loaded_for_the_models_alone_that_need_it(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], expected: str
) -> None:
    stage = {"kind": "generate", "role": "bulk", "prompt": "{{ inputs.q }}"}
    given = {"name": "one", "inputs": {"q": {}}, "stages": {"answer": stage}, "output": "answer"}
    (tmp_path / "one.yaml").write_text(json.dumps(given))
    with Provider(Answer("Oslo")) as provider:
        own = f'[endpoints.NAME]\nmodel = "m"\napi_base = "{provider.url}"\n'
        slow = own.replace("NAME", "slow") + 'wire = "litellm"\n'
        (tmp_path / "own.toml").write_text(own.replace("NAME", "mine") + slow)
        bases = {
            name: provider.root if door.api == "anthropic" else provider.url
            for door in DOORS.values()
            for name in door.bases
        }
        keys = {door.key: KEY for door in DOORS.values()}
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "FUSION_CONFIG": str(tmp_path / "own.toml")}
        done = subprocess.run(
            [sys.executable, "-c", LOADED, json.dumps([*arguments, "--no-store", "-q"])],
            cwd=tmp_path,
            env={**env, **bases, **keys, **variables},
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.stdout.splitlines()[-1] == expected, done.stderr


def test_a_model_without_a_chat_api_goes_by_litellm(settings: Settings) -> None:
    for model_id, wire in (("openai/gpt-5-codex", "litellm"), ("openai/gpt-5.6", "direct"), ("gemini/x", "litellm")):
        assert wire_of(lookup(model_id), settings) == wire


def test_what_a_door_lacks_is_refused_for_its_models() -> None:
    chains = [chain for profile in load_profiles().values() for chain in profile.roles.values()]
    models = {model: DOORS.get(model.partition("/")[0]) for chain in chains for model in chain}
    for model, door in models.items():
        info: ModelInfo = lookup(model)
        for lacked in () if door is None else door.lacks:
            takes = info.takes or frozenset()
            assert lacked not in takes if lacked in ("pdf", "image") else lacked in info.refuses, (model, lacked)
