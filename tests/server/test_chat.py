"""Chat completions over real HTTP, by the openai SDK and by hand."""

from fusion import Say
from tests.server.conftest import Serve


def test_a_completion_is_the_answer_of_a_run(serve: Serve) -> None:
    served = serve("the answer")
    raw = served.openai().chat.completions.with_raw_response.create(**served.chat("What is it?"))
    said = raw.parse()
    assert said.choices[0].message.content == "the answer"
    assert said.choices[0].finish_reason == "stop"
    assert said.model == "echo"
    assert served.fusion.runs.find(raw.headers["x-fusion-run"]).status == "ok"


def test_a_stream_has_the_pieces_of_the_answer(serve: Serve) -> None:
    served = serve(Say(pieces=["the ", "whole ", "answer"]))
    pieces = served.openai().chat.completions.create(**served.chat(), stream=True)
    assert "".join(one.choices[0].delta.content or "" for one in pieces) == "the whole answer"


def test_models_are_listed_as_the_client_knows_them(serve: Serve) -> None:
    served = serve()
    assert [one.id for one in served.openai().models.list()] == ["echo"]
    assert served.openai().models.retrieve("fusion/echo").id == "echo"
    with served.client(headers={"anthropic-version": "2023-06-01"}) as client:
        listed = client.get("/v1/models").json()
    assert (listed["data"][0]["type"], listed["first_id"], listed["has_more"]) == ("model", "anthropic/echo", False)
