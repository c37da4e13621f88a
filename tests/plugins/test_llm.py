"""Pipelines as models of llm: by its Python API and by its command line."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llm
import pytest
from click.testing import CliRunner
from llm.plugins import load_plugins, pm

from fusion import Fusion, Request, Say, ScriptedModel
from fusion.core.errors import ContentFilterError
from fusion.core.types import ToolCall
from fusion.plugins import llm as plugin

OSLO = ToolCall(id="p1", name="weather", arguments='{"city": "Oslo"}')
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20


def saying(request: Request) -> Any:
    last = request.messages[-1]
    if last.role == "tool":
        return f"It is {last.content}."
    if "fail" in last.content:
        return ContentFilterError("blocked")
    if request.json_schema is not None:
        return '{"n": 1}'
    return Say(tool_calls=(OSLO,)) if request.tools else Say(pieces=["a ", "plain ", "answer"])


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(saying)


@pytest.fixture(autouse=True, scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plug-in is registered, and llm keeps its log in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_USER_PATH", str(tmp_path_factory.mktemp("llm")))
        with pytest.MonkeyPatch.context() as loading:
            loading.setattr(sys, "_called_from_test", True, raising=False)  # no plug-ins of this machine
            load_plugins()
        if not pm.is_registered(plugin):
            pm.register(plugin, "fusion")
        yield


@pytest.fixture(autouse=True)
def fusion(model: ScriptedModel, tmp_path: Path) -> Iterator[Fusion]:
    with Fusion(model=model, store=tmp_path / "runs.db") as made:
        plugin.use(made)
        yield made
    plugin.use(None)


def single() -> Any:
    return llm.get_model("fusion/single")


def whole(prompt: str | None = "Why?", **options: Any) -> Any:
    response = single().prompt(prompt, stream=False, **options)
    response.text()
    return response


def streamed(prompt: str | None = "Why?", **options: Any) -> Any:
    response = single().prompt(prompt, **options)
    list(response)
    return response


def awaited(prompt: str | None = "Why?", **options: Any) -> Any:
    async def ask() -> Any:
        response = llm.get_async_model("fusion/single").prompt(prompt, **options)
        await response.text()
        return await response.to_sync_response()

    return asyncio.run(ask())


WAYS = pytest.mark.parametrize("ask", [whole, streamed, awaited])


def test_every_pipeline_is_a_model_of_both_kinds() -> None:
    names = {model.model_id for model in llm.get_models() if model.model_id.startswith("fusion/")}
    assert {"fusion/single", "fusion/fusion", "fusion/vote", "fusion/plan-execute-review"} <= names
    assert {model.model_id for model in llm.get_async_models() if model.model_id in names} == names


def test_the_entry_point_names_the_plug_in() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["llm"] == {"fusion": plugin.__name__}


@WAYS
def test_a_pipeline_answers(ask: Callable[..., Any], fusion: Fusion) -> None:
    response = ask()
    assert response.text() == "a plain answer"
    assert response.input_tokens > 0
    (run,) = fusion.runs.list()
    assert response.response_json["run_id"] == run.run_id


def test_pieces_come_as_they_are_written() -> None:
    assert [piece for piece in single().prompt("Why?") if piece] == ["a ", "plain ", "answer"]


@WAYS
def test_a_schema_shapes_the_answer(ask: Callable[..., Any]) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert json.loads(ask(schema=schema).text()) == {"n": 1}


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"max_tokens": 30}, {"max_tokens": 30}),
        ({"seed": 7, "top_p": 0.5}, {"seed": 7, "top_p": 0.5}),
        ({"usd": 1.0}, {"seed": None}),
        ({"seconds": 60}, {"temperature": None}),
    ],
)
def test_options_reach_the_answer(options: dict[str, Any], seen: dict[str, Any], model: ScriptedModel) -> None:
    whole(**options)
    assert {name: getattr(model.requests[-1], name) for name in seen} == seen


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokens": 1}, "tokens limit"),
        ({"inputs": "{"}, "is not JSON"),
        ({"inputs": "[1]"}, "give a JSON object"),
        ({"inputs": '{"nope": "x"}'}, "no input 'nope'"),
        ({"prompt": "fail"}, "blocked"),
    ],
)
@WAYS
def test_errors_are_those_of_llm(ask: Callable[..., Any], options: dict[str, Any], words: str) -> None:
    options = dict(options)
    with pytest.raises(llm.ModelError, match=words):
        ask(options.pop("prompt", "Why?"), **options)


def test_further_inputs_are_given_as_json(model: ScriptedModel) -> None:
    whole(inputs='{"context": "The sky is blue."}')
    assert any("The sky is blue." in message.content for message in model.requests[-1].messages)


def test_a_conversation_goes_on(model: ScriptedModel) -> None:
    conversation = single().conversation()
    conversation.prompt("First question", system="Be brief.").text()
    conversation.prompt("Second question").text()
    said = "\n".join(message.content for message in model.requests[-1].messages)
    assert all(words in said for words in ("Be brief.", "First question", "a plain answer", "Second question"))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_tools_are_called_and_answered_within_the_run(kind: str, model: ScriptedModel, fusion: Fusion) -> None:
    cities: list[str] = []

    def weather(city: str) -> str:
        """The weather of a city."""
        cities.append(city)
        return "5 degrees"

    async def chained() -> str:
        return str(await llm.get_async_model("fusion/single").chain("Weather?", tools=[weather]).text())

    text = single().chain("Weather?", tools=[weather]).text() if kind == "sync" else asyncio.run(chained())
    assert (text, cities) == ("It is 5 degrees.", ["Oslo"])
    newest, first = fusion.runs.list()
    assert newest.parent == first.run_id
    assert model.requests[0].tools[0].description == "The weather of a city."


@pytest.mark.parametrize(("name", "kind"), [("a.png", "image/png"), ("a.pdf", "application/pdf")])
def test_attachments_reach_the_model(name: str, kind: str, model: ScriptedModel, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(PNG if kind == "image/png" else b"%PDF-1.4 /Type /Page ")
    whole(attachments=[llm.Attachment(path=str(path), type=kind)])
    files = [file for message in model.requests[-1].messages for _, file in message.files]
    assert [(file.media_type, file.data) for file in files] == [(kind, path.read_bytes())]


# The command line.


def run(*arguments: str, stdin: str = "") -> tuple[int, str]:
    from llm.cli import cli

    result = CliRunner().invoke(cli, list(arguments), input=stdin, catch_exceptions=True)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-m", "fusion/single", "Why?"], 0, "a plain answer\n"),
        (["-m", "fusion/single", "Why?", "--no-stream", "--no-log"], 0, "a plain answer\n"),
        (["-m", "fusion/single", "Why?", "--async"], 0, "a plain answer\n"),
        (["-m", "fusion/single", "Why?", "--schema", "n int"], 0, '"n": 1'),
        (["-m", "fusion/single", "Why?", "-o", "tokens", "1"], 1, "tokens limit"),
        (["-m", "fusion/single", "Why?", "-o", "usd", "0"], 1, "usd"),
        (["models", "list", "--options", "-q", "fusion/single"], 0, "Most dollars of the run."),
    ],
)
def test_the_command_line_runs_pipelines(arguments: list[str], code: int, words: str) -> None:
    found, output = run(*arguments)
    assert (found, words in output, "Traceback" in output) == (code, True, False), output
