"""Thoughts are never an answer and never a piece of one, wherever a server writes them, and cost once."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fusion import Fusion, Generate, InputSpec, Map, Pipeline, Plan, Settings
from fusion.core.config import Endpoint
from fusion.models.providers.litellm import close_all
from fusion.models.providers.reader.thoughts import AnswerStream, parted
from tests.models.providers.reader.bodies import ask, both, chunk, chunks, stream, whole
from tests.provider import Answer, Provider, Seen

pytestmark = pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning")

ANSWERS = {
    "a block": ("<think>\nThe capital? Easy.\n</think>\n\nOslo", "Oslo"),
    "capitals": ("<Think>hm</THINK>Oslo", "Oslo"),
    "white space before": ("\n  <think>hm</think>\nOslo", "Oslo"),
    "another mark": ("<thinking>hm</thinking>Oslo", "Oslo"),
    "brackets": ("[THINK]hm[/THINK]Oslo", "Oslo"),
    "two blocks": ("<think>a</think>\n<think>b</think>Oslo", "Oslo"),
    "nested": ("<think>a <think>b</think> c</think>Oslo", "Oslo"),
    "an empty block": ("<think></think>Oslo", "Oslo"),
    "a block between lines": ("Oslo.\n<think>sure?</think>\nYes.", "Oslo.\nYes."),
    "no opening": ("The capital? Easy.\n</think>\n\nOslo", "Oslo"),
    "no opening, one line": ("easy</think>Oslo", "Oslo"),
    "no opening, JSON thought": ('Perhaps {"total": 1}? No.\n</think>\n{"total": 3}', '{"total": 3}'),
    "no opening, fenced thought": ('Try\n```json\n{"a": 1}\n```\nno.\n</think>\nOslo', "Oslo"),
    "closed twice": ("a</think>b</think>Oslo", "Oslo"),
    "behind words": ("Sure! <think>\nhm\n</think>\nOslo", "Sure! Oslo"),
    "never closed": ("<think>The capital of", ""),
}
PLAIN = {
    "no marks": "Oslo",
    "white space": "\n Oslo\n",
    "in backticks": "Write `</think>` at the end.",
    "in quotes": 'The string "</think>" ends it.',
    "a pair in a line": "Models write <think> and </think> around it.",
    "in a fence": "As in\n```\n<think>\nhm\n</think>\n```\nabove.",
    "in JSON": '{"text": "the mark </think> ends it"}',
    "in a list of JSON": '["<think>", "</think>"]',
    "less than": "1 < 2, and <b>bold</b> [a link](x)",
    "a mark begun": "<thin",
    "almost": "<thinker>x</thinker>",
}


@pytest.mark.parametrize(("said", "answer"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_is_without_its_thoughts(said: str, answer: str) -> None:
    assert parted(said).answer == answer


@pytest.mark.parametrize("said", PLAIN.values(), ids=PLAIN.keys())
def test_an_answer_that_speaks_of_marks_is_whole(said: str) -> None:
    assert parted(said).answer == said


@pytest.mark.parametrize("said", [said for said, _ in ANSWERS.values()] + list(PLAIN.values()))
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_pieces_of_any_size_give_the_same_answer(said: str, size: int) -> None:
    for hold in ("nothing", "unless JSON", "everything"):
        reading = AnswerStream(hold)
        given = "".join(reading.add(said[at : at + size]) for at in range(0, len(said), size))
        rest, replaces, _ = reading.end()
        assert (rest if replaces else given + rest) == parted(said).answer
        if hold != "nothing" and "hm" in said and "`" not in said:
            assert "hm" not in given


def test_a_text_full_of_marks_takes_linear_time() -> None:
    import time

    started = time.process_time()
    for mark in ("<think></think>", "</think>", "<think>", "x <think> ", "`</think>`", "\n<think>\n"):
        text = mark * (200_000 // len(mark))
        reading = AnswerStream()
        reading.add(text)
        reading.end()
        parted(text)
    assert time.process_time() - started < 5


@pytest.fixture(name="closing")
async def _closing() -> AsyncIterator[None]:
    yield
    await close_all()


@pytest.mark.anyio
@pytest.mark.usefixtures("closing")
@pytest.mark.parametrize("said", [said for said, answer in ANSWERS.values() if answer == "Oslo"])
async def test_whole_and_streamed_are_the_same_answer(said: str) -> None:
    for body in (whole(said), stream(chunks(*said)), stream(chunks(said[:7], said[7:]))):
        reply = (await both(body)).reply
        assert reply is not None
        assert reply.text == "Oslo"


FIELDS = [
    {"reasoning_content": "hm hm"},
    {"reasoning": "hm hm"},
    {"thinking": "hm hm"},
    {"reasoning_details": ["hm"]},
]


@pytest.mark.anyio
@pytest.mark.usefixtures("closing")
@pytest.mark.parametrize("field", FIELDS, ids=str)
async def test_thoughts_in_a_field_are_no_answer(field: dict[str, Any]) -> None:
    for body in (whole("Oslo", **field), stream([chunk(field), *chunks("Os", "lo")])):
        reply = (await both(body)).reply
        assert reply is not None
        assert reply.text == "Oslo"


@pytest.mark.anyio
@pytest.mark.usefixtures("closing")
@pytest.mark.parametrize("schema", [{"type": "object"}, None])
async def test_pieces_flow_while_a_known_server_writes(schema: Any) -> None:
    said = '{"a": 1} and more'
    outcome = await ask(stream(chunks(*said)), streamed=True, thinks=False, json_schema=schema)
    assert outcome.pieces == said


@pytest.mark.anyio
@pytest.mark.usefixtures("closing")
async def test_thoughts_are_counted_once_where_usage_is_estimated() -> None:
    for said, more in (("<think>" + "x" * 400 + "</think>Oslo", {}), ("Oslo", {"reasoning_content": "x" * 400})):
        reply = (await both(whole(said, usage=None, **more))).reply
        assert reply is not None
        assert 100 <= reply.usage.output <= 106
        assert reply.usage.source == "estimated"


def one(**stage: Any) -> Pipeline:
    answer = Generate(role="bulk", prompt="{{ inputs.q }}", **stage)
    return Pipeline(name="one", inputs={"q": InputSpec()}, stages={"a": answer}, output="a")


@pytest.fixture(name="settings")
def _settings(tmp_path: Any) -> Settings:
    return Settings(models_dir=tmp_path, local_threads=1, library_dir=tmp_path)


@pytest.mark.parametrize("said", ["Hm.\n</think>\n\nOslo", "<think>Hm.</think>Oslo", "Oslo"])
def test_a_stream_of_the_client_never_holds_a_thought(said: str, settings: Settings) -> None:
    answers = Answer(pieces=list(said))
    with Provider(answers) as provider:
        mine = Endpoint(model="m", api_base=provider.url)
        with Fusion(settings=settings.model_copy(update={"endpoints": {"mine": mine}}), model="mine") as fusion:
            for _ in range(2):
                told = fusion.stream("Capital?", pipeline=one())
                assert "".join(told) == told.result.text == "Oslo"
                assert told.restarts == 0


def test_an_endpoint_that_is_said_not_to_think_streams_at_once(settings: Settings) -> None:
    with Provider(Answer(pieces=["Os", "lo"])) as provider:
        mine = Endpoint(model="m", api_base=provider.url, thinks=False)
        with Fusion(settings=settings.model_copy(update={"endpoints": {"mine": mine}}), model="mine") as fusion:
            assert list(fusion.stream("Capital?", pipeline=one())) == ["Os", "lo"]


def test_an_endpoint_that_is_said_to_think_is_held_back_each_time(settings: Settings) -> None:
    with Provider(Answer(pieces=["Os", "lo"])) as provider:
        mine = Endpoint(model="m", api_base=provider.url, thinks=True)
        with Fusion(settings=settings.model_copy(update={"endpoints": {"mine": mine}}), model="mine") as fusion:
            for _ in range(2):
                assert list(fusion.stream("Capital?", pipeline=one())) == ["Oslo"]


def planned(title: str) -> str:
    """A plan of one subtask."""
    more = {"needs": [], "difficulty": 1, "capabilities": [], "expected_output": "x", "acceptance_criteria": ["x"]}
    subtask = {"title": title, "instructions": "x", **more}
    return json.dumps({"goal": "g", "constraints": [], "merge_instructions": "m", "subtasks": [subtask]})


DRAFTS = ["Perhaps {}? No.\n</think>\n{}", "<think>{}</think>{}", "Try\n```json\n{}\n```\nno.</think>{}"]


@pytest.mark.parametrize("said", [*DRAFTS, "Hm. {} {} no</think>\n\n"])
@pytest.mark.parametrize("size", [3, 11, 5000])
def test_a_thought_is_never_a_plan(said: str, size: int, settings: Settings) -> None:
    text = said.replace("{}", planned("draft"), said.count("{}") - 1).replace("{}", planned("final"))
    text += planned("final") if said.endswith("\n\n") else ""
    stages = {"plan": Plan(role="bulk"), "work": Map(over="plan", role="bulk", prompt="{{ item.title }}")}
    pipeline = Pipeline(name="p", inputs={"q": InputSpec()}, stages=stages, output="work")

    def answer(seen: Seen) -> Answer:
        plans = "merge_instructions" in json.dumps(seen.body)
        return Answer(text if plans else "done", piece_size=size, over_deliver=True)

    with Provider(answer) as provider:
        mine = Endpoint(model="m", api_base=provider.url)
        with Fusion(settings=settings.model_copy(update={"endpoints": {"mine": mine}}), model="mine") as fusion:
            result = fusion.complete("Do it.", pipeline=pipeline)
    assert [item.source["title"] for item in result.items] == ["final"]
