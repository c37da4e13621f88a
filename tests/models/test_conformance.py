"""Every Model passes the same suite."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusion.core.config import Settings
from fusion.models.base import Model
from fusion.models.gateway import Gateway
from fusion.models.providers.litellm import LiteLLMModel, close_all
from fusion.models.providers.replay import ReplayModel
from fusion.models.providers.scripted import Say, ScriptedModel
from tests.models.conformance import Ask, ModelConformance, SpokenModelConformance, Subject
from tests.provider import Answer, Provider


class TestScripted(SpokenModelConformance):
    @pytest.fixture
    def subject(self) -> Subject:
        return Subject(lambda ask: ScriptedModel(Say(ask.text, delay=ask.delay)))


@pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning")  # litellm's own types, said once by pydantic
@pytest.mark.parametrize("model_id", ["openai/mock", "anthropic/claude-haiku-5-5", "openrouter/openai/gpt-5.6"])
class TestLiteLLM(SpokenModelConformance):
    @pytest.fixture
    def subject(self, model_id: str) -> Iterator[Subject]:
        with Provider() as provider:
            base = provider.root if model_id.startswith("anthropic/") else provider.url

            def make(ask: Ask) -> Model:
                pieces = [word + " " for word in ask.text.split(" ")]
                pieces[-1] = pieces[-1][:-1]
                provider.script = Answer(pieces=pieces, delay=ask.delay)
                return LiteLLMModel(model_id, api_base=base, api_key="sk-of-a-test")

            yield Subject(make, finish=close_all)


class TestReplay(SpokenModelConformance):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        def make(ask: Ask) -> Model:
            answer = {"text": ask.text, "prompt_tokens": 9, "completion_tokens": len(ask.text.split()) or 1}
            prompts = ("Count from one to six.", "Count from one to a hundred, in words.")
            rows = [{"prompt": prompt, "responses": {"one": answer}} for prompt in prompts]
            file = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            return ReplayModel(f"replay:{file}#one")

        return Subject(make)


@pytest.mark.local
@pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning")
class TestEmbedded(ModelConformance):
    """A real model, with all the wrappers that a run puts around it."""

    @pytest.fixture
    def subject(self) -> Subject:
        made: list[Gateway] = []

        def make(ask: Ask) -> Model:
            made.append(Gateway(Settings.from_environment()))
            return made[-1].member("local/tiny").last

        return Subject(make, finish=lambda: made[-1].close())
