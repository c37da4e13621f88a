"""Gates of the run of a call, put to the person at the MCP client, by both protocols."""

from typing import Any

import pytest
from mcp.types import ElicitRequestFormParams, ElicitResult

from tests.server.mcp.conftest import MODES, Offer, text_of

pytestmark = pytest.mark.anyio

ASKS = """
name: asks
inputs: {task: A task.}
stages:
  draft: {kind: generate, role: frontier, prompt: "Draft {{ inputs.task }}"}
  ask: {kind: gate, show: draft, title: Send this?%s}
  sent: {kind: generate, role: frontier, prompt: "Sent: {{ ask.text }} ({{ ask.by }})"}
output: sent
"""
FORM = ", ask: {tone: [warm, cold], pages: integer, note: string?}"


class Person:
    """Answers forms with these answers, in turn, and keeps the forms."""

    def __init__(self, *answers: ElicitResult) -> None:
        self.answers = list(answers)
        self.forms: list[ElicitRequestFormParams] = []

    async def __call__(self, context: Any, params: ElicitRequestFormParams) -> ElicitResult:
        self.forms.append(params)
        return self.answers.pop(0)


def said(**content: Any) -> ElicitResult:
    return ElicitResult(action="accept", content=content)


def echo(request: Any) -> str:
    return str(request.messages[-1].content)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("options", "answer", "text"),
    [
        ("", said(yes=True), "Sent: Draft pay (mcp client)"),
        ("", said(yes=True, reason=""), "Sent: Draft pay (mcp client)"),
        (", ask: edit", said(yes=True, text="my words"), "Sent: my words (mcp client)"),
        (", ask: edit", said(yes=True, text="Draft pay"), "Sent: Draft pay (mcp client)"),
        (FORM, said(tone="warm", pages=2), 'Sent: {"tone": "warm", "pages": 2} (mcp client)'),
        ("", said(yes=False, reason="too dear"), "rejected by mcp client: too dear"),
        ("", ElicitResult(action="decline"), "rejected by mcp client"),
    ],
)
async def test_the_person_at_the_client_answers(
    offer: Offer, mode: str, options: str, answer: ElicitResult, text: str
) -> None:
    offered, person = offer(echo, pipelines={"asks": ASKS % options}), Person(answer)
    async with offered.client(mode, elicitation_callback=person) as client:
        result = await client.call_tool("asks", {"task": "pay"})
    assert text in text_of(result)
    assert result.is_error is text.startswith("rejected")
    assert person.forms[0].message == "Send this?\n\nDraft pay"
    row = offered.run_of(result)
    assert row.status == ("failed" if result.is_error else "ok")
    assert len(offered.fusion.runs.show(row.run_id).calls) == (1 if result.is_error else 2)
    (gate,) = offered.fusion.runs.gates(row.run_id)
    assert gate.answer is not None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("options", "answer", "words"),
    [
        ("", ElicitResult(action="cancel"), "No answer was given to 'ask'."),
        (FORM, said(tone="hot", pages=2), "do not match the schema"),
        (", ask: {list: [{name: string}]}", None, "waits for a person at 'ask'"),
    ],
)
async def test_without_an_answer_that_fits_the_call_says_how_to_answer(
    offer: Offer, mode: str, options: str, answer: ElicitResult | None, words: str
) -> None:
    offered, person = offer(echo, pipelines={"asks": ASKS % options}), Person(*([answer] if answer else []))
    async with offered.client(mode, elicitation_callback=person) as client:
        result = await client.call_tool("asks", {"task": "pay"})
    assert result.is_error
    assert words in text_of(result)
    assert f"`fusion approve {offered.run_of(result).run_id}` answers." in text_of(result)
    assert offered.run_of(result).status == "waiting"


@pytest.mark.parametrize("mode", MODES)
async def test_several_gates_are_asked_one_after_the_other(offer: Offer, mode: str) -> None:
    two = ASKS % "" + "\n"
    two = two.replace("output: sent", "  again: {kind: gate, show: sent, ask: edit}\noutput: again")
    offered, person = offer(echo, pipelines={"asks": two}), Person(said(yes=True), said(yes=True, text="done"))
    async with offered.client(mode, elicitation_callback=person) as client:
        result = await client.call_tool("asks", {"task": "pay"})
    assert not result.is_error
    assert text_of(result).startswith("done")
    assert len(person.forms) == 2
