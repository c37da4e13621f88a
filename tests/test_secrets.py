"""A key in the environment, echoed by a hostile provider in all that it says, is in no byte of what a run leaves."""

import base64
import json
import os
import sqlite3
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from fusion import Fusion, RunFailed
from fusion.bench import run as run_suite
from fusion.core.errors import FusionError, UsageError
from fusion.core.events import EventBase
from fusion.models.providers.litellm import LiteLLMModel, close_all
from tests.cli.conftest import ONE, Command, apart, command, pipeline
from tests.leaks import leaks
from tests.models.conformance import Collected, request
from tests.provider import Answer, Provider, Seen

__all__ = ["command", "pipeline"]

KEY: Final = "sentinel/Q7+x9=key-of-ours-4242"
MASK: Final = "[OPENAI_API_KEY]"

pytestmark = pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning")  # litellm's own types


def plain(key: str) -> str:
    return key


def quoted(key: str) -> str:
    return quote(key, safe="")


def quoted_lower(key: str) -> str:
    return "".join(char if char.isalnum() else f"%{ord(char):02x}" for char in key)


def quoted_in_full(key: str) -> str:
    return "".join(f"%{ord(char):02X}" for char in key)


def slashed(key: str) -> str:
    return key.replace("/", "\\/")


def escaped(key: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in key)


FORMS: Final = (plain, quoted, quoted_lower, quoted_in_full, slashed, escaped)


def whole(**message: Any) -> str:
    """The body of a completion with this message."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello", **message}, "finish_reason": "stop"}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "{key}", "choices": [choice]})


def hostile(**options: Any) -> Answer:
    return Answer(**{"headers": {"retry-after": "0"}, "echo": plain, **options})


REFUSED: Final = {
    "400": hostile(text="no: {key}", status=400),
    "401": hostile(text="Incorrect API key provided: {key}", status=401),
    "401 bearer": hostile(text="Bearer {key} is not known", status=401),
    "404 HTML": hostile(body="<h1>{key}</h1> not found", status=404),
    "307": hostile(body="go on", status=307, headers={"location": "/?key={key}", "x-key": "{key}"}),
    "too long": hostile(text="maximum context length is 8192 tokens, {key}", status=400),
    "filtered": hostile(text="content_filter {key}", status=400),
    "deep": hostile(body=json.dumps({"error": {"metadata": {"headers": ["{key}"]}}}), status=400),
    "bytes": hostile(body=b"\xff\x00{key}\xff", status=400),
    "after 300": hostile(text="x" * 280 + "{key}", status=400),
}
UNREADABLE: Final = {
    "no JSON": hostile(body="here you are: {key}"),
    "no choices": hostile(body='{"model": "{key}", "choices": "{key}"}'),
    "content": hostile(body=whole(content=["{key}"])),
    "model": hostile(body=json.dumps({"model": {"{key}": "{key}"}, "choices": ["{key}"]})),
    "usage": hostile(usage={"prompt_tokens": "{key}", "completion_tokens": ["{key}"]}),
    "refusal": hostile(body=whole(content=None, refusal="I will not say {key}")),
    "error in a 200": hostile(body='{"error": {"message": "{key}", "code": "{key}"}}'),
    "cut off": hostile(text="it is {key} and", pieces=["it is {key}", " and", " so"], drop="body"),
    "no end": hostile(text="it is {key}", finish_reason=None),
    "500": hostile(text="{key}", status=500),
    "429": hostile(text="slow down, {key}", status=429),
}
ANSWERED: Final = {
    "text": hostile(text="You sent {key}, I think."),
    "only the key": hostile(text="{key}"),
    "twice": hostile(text="{key}{key}"),
    "served": hostile(model="{key}"),
    "finish": hostile(finish_reason="{key}"),
    "headers": hostile(headers={"x-request-id": "{key}", "set-cookie": "k={key}", "server": "{key}"}),
    "by one": hostile(text="You sent {key}, I think.", piece_size=1),
    "by three": hostile(text="You sent {key}, I think.", piece_size=3),
    "by seven": hostile(text="{key}", piece_size=7),
}
EVERY: Final = {**REFUSED, **UNREADABLE, **ANSWERED}


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Provider]:
    """A provider that the key in the environment is for."""
    for name in [name for name in os.environ if name.endswith("_TOKEN")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("FUSION_STORE", str(tmp_path / "runs.db"))
    with Provider() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        yield running


# The command line.

OPTIONS: Final = (["--json", "-v"], ["--events"], ["--events-to", "events", "-o", "answer", "-v"])
ALL: Final = """
inputs: {words: words with commas between}
defaults: {patience: 2}
stages:
  work: {kind: map, over: "inputs.words.split(',')", role: bulk, prompt: "do {{ item.source }}."}
  answer: {kind: merge, over: work, strategy: concat}
output: answer
"""
DOORS: Final = ("openai/mock", "anthropic/claude-haiku-5-5", "openrouter/openai/gpt-5.6", "azure/mock", "groq/mock")
NAMES: Final = ",".join((*UNREADABLE, *ANSWERED))


def by_name(seen: Seen) -> Answer:
    """The answer whose name stands in the prompt."""
    return EVERY[seen.body["messages"][-1]["content"].removeprefix("do ").removesuffix(".")]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("said", REFUSED)
def test_nothing_that_a_command_writes_when_refused(
    said: str, options: list[str], provider: Provider, command: Command, pipeline: Any, tmp_path: Path
) -> None:
    provider.script = EVERY[said]
    done = command("--debug", "run", pipeline(ONE), "write", *options)
    assert done.code == 3
    assert provider.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert "Traceback" in done.err
    assert leaks(KEY, out=done.out, err=done.err) == []
    for words in (["export", "latest", "-o", "export.json"], ["show", "latest"], ["show", "latest", "1"], ["list"]):
        kept = command("runs", *words)
        assert kept.code == 0
        assert leaks(KEY, out=kept.out, err=kept.err) == []
    assert {path.name for path in tmp_path.iterdir()} >= {"runs.db", "export.json"}
    assert leaks(KEY, folder=tmp_path) == []
    assert (MASK in done.err) == (said != "307")  # of which the headers alone held it


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_nothing_that_a_command_writes_of_many_answers(
    options: list[str], provider: Provider, command: Command, pipeline: Any, tmp_path: Path
) -> None:
    provider.script = by_name
    done = command("--debug", "run", pipeline(ALL), NAMES, *options)
    assert done.code in (0, 3)
    assert {EVERY[name].text for name in ANSWERED} <= {by_name(seen).text for seen in provider.requests}
    assert leaks(KEY, out=done.out, err=done.err, folder=tmp_path) == []
    assert MASK in done.out + done.err


def test_nothing_that_a_process_writes(provider: Provider, pipeline: Any, tmp_path: Path) -> None:
    """With litellm's own logging asked for, and from the first byte to the last."""
    provider.script = by_name
    env = {"LITELLM_LOG": "DEBUG", "PYTHONWARNINGS": "always"}
    done = apart("--debug", "run", pipeline(ALL), NAMES, "--events-to", str(tmp_path / "events"), env=env)
    assert leaks(KEY, out=done.out, err=done.err, folder=tmp_path) == []
    assert MASK in done.out + done.err


# Python.


@pytest.mark.parametrize("said", ["401", "deep", "all", "text"])
def test_nothing_that_is_raised_returned_or_told(
    said: str, provider: Provider, pipeline: Any, tmp_path: Path
) -> None:
    provider.script = by_name if said == "all" else EVERY[said]
    prompt, text = (NAMES, ALL) if said == "all" else ("write", ONE)
    events: list[EventBase] = []
    failed = None
    with Fusion(store=tmp_path / "runs.db") as fusion:
        try:
            result = fusion.complete(prompt, pipeline=pipeline(text), on_event=events.append)
        except RunFailed as error:
            failed, result = error, error.result
        history = [*fusion.runs.export(result.run_id), repr(fusion.runs.show(result.run_id))]
        history += [repr(fusion.runs.call(result.run_id, call.number)) for call in fusion.runs.show("latest").calls]
    assert (failed is None) == (result.status != "failed")
    assert leaks(KEY, error=failed, result=repr(result), json=result.model_dump_json(), events=repr(events)) == []
    assert leaks(KEY, history="".join(history)) == []
    assert (tmp_path / "runs.db").stat().st_size > 0
    assert leaks(KEY, folder=tmp_path) == []


@pytest.mark.parametrize("said", ["text", "by one", "by three", "by seven", "only the key", "twice"])
def test_a_stream_is_whole_but_for_its_key(said: str, provider: Provider, pipeline: Any) -> None:
    provider.script = EVERY[said]
    with Fusion() as fusion:
        stream = fusion.stream("write", pipeline=pipeline(ONE))
        pieces = list(stream)
    assert "".join(pieces) == stream.result.text == EVERY[said].text.replace("{key}", MASK)
    assert all(KEY not in piece for piece in pieces)


@pytest.mark.anyio
@pytest.mark.parametrize("model_id", DOORS)
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("said", EVERY)
async def test_no_door_lets_it_through(
    said: str, streamed: bool, model_id: str, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.script = EVERY[said]
    monkeypatch.setenv("AZURE_API_VERSION", "2026-01-01")
    base = provider.root if model_id.startswith("anthropic/") else provider.url
    heard = Collected() if streamed else None
    failed, reply = None, None
    try:
        reply = await LiteLLMModel(model_id, api_base=base, api_key=KEY).complete(request(), heard)
    except FusionError as error:
        failed = error
    await close_all()
    assert provider.requests
    assert leaks(KEY, error=failed, reply=repr(reply), heard=repr(heard and heard.pieces)) == []


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [None, 1, 2, 5])
async def test_quoted_and_escaped_it_is_the_same_key(form: Any, size: int | None, provider: Provider) -> None:
    """Whoever reads the text as JSON or as a URL has it plain again."""
    provider.script = hostile(text='a {"k": "{key}"} b', echo=form, piece_size=size)
    heard = Collected()
    model = LiteLLMModel("openai/mock", api_base=provider.url)
    try:
        reply = await model.complete(request(), heard)
        assert reply.text == "".join(heard.pieces) == f'a {{"k": "{MASK}"}} b'
        provider.script = hostile(body="no: {key}!", status=400, echo=form)
        with pytest.raises(FusionError, match=r"no: \[OPENAI_API_KEY\]!") as caught:
            await model.complete(request())
        assert leaks(form(KEY), error=caught.value) == []
    finally:
        await close_all()


# What is a key, and what is none.


@pytest.mark.anyio
@pytest.mark.parametrize("piece_size", [None, 1, 4])
async def test_what_only_looks_like_its_beginning_is_given_out(piece_size: int | None, provider: Provider) -> None:
    text = f"{KEY[:5]} {KEY[0]} %7 \\u00 {KEY[:-4]}!{KEY[1:]} {KEY[:6]}"
    provider.script = Answer(text, piece_size=piece_size)
    heard = Collected()
    reply = await LiteLLMModel("openai/mock", api_base=provider.url).complete(request(), heard)
    await close_all()
    assert reply.text == "".join(heard.pieces) == text


@pytest.mark.anyio
async def test_a_key_that_the_end_cuts_off_is_one_from_its_half_on(provider: Provider) -> None:
    provider.script = Answer(f"it is {KEY[:-3]}", finish_reason="length", piece_size=4)
    heard = Collected()
    reply = await LiteLLMModel("openai/mock", api_base=provider.url).complete(request(), heard)
    await close_all()
    assert reply.text == "".join(heard.pieces) == f"it is {MASK}"


def answered(provider: Provider, text: str, pipeline: str) -> str:
    provider.script = Answer(text)
    with Fusion() as fusion:
        return fusion.complete("write", pipeline=pipeline).text


def test_every_variable_that_may_hold_a_key_is_masked_by_its_name(
    provider: Provider, pipeline: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("GROQ_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AZURE_API_KEY", "MY_SERVER"):
        monkeypatch.setenv(name, f"the-value-of-{name.lower()}")
    monkeypatch.setenv("AWS_REGION_NAME", "eu-central-1")
    text = " ".join(f"the-value-of-{name}" for name in ("groq_api_key", "hf_token", "my_server")) + " in eu-central-1"
    endpoint = f'[endpoints.mine]\nmodel = "x"\napi_base = "{provider.url}"\nkey_env = "MY_SERVER"\n'
    (tmp_path / "fusion.toml").write_text(f'profile = "openai"\n{endpoint}')
    monkeypatch.setenv("FUSION_CONFIG", str(tmp_path / "fusion.toml"))
    assert answered(provider, text, pipeline(ONE)) == "[GROQ_API_KEY] [HF_TOKEN] [MY_SERVER] in eu-central-1"
    with Fusion(model="mine") as fusion:
        provider.script = hostile(text="{key} and the-value-of-aws_secret_access_key")
        done = fusion.complete("write", pipeline=pipeline(ONE))
    assert done.text == "[MY_SERVER] and [AWS_SECRET_ACCESS_KEY]"


def test_a_key_of_fewer_than_eight_characters_is_left_alone(
    provider: Provider, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "nothing")
    assert answered(provider, "nothing is masked", pipeline(ONE)) == "nothing is masked"
    monkeypatch.setenv("OPENAI_API_KEY", "nothing8")
    assert answered(provider, "nothing8 is masked", pipeline(ONE)) == "[OPENAI_API_KEY] is masked"


def test_a_key_that_changes_while_the_process_runs(
    provider: Provider, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Fusion() as fusion:
        provider.script = hostile(text="{key} and the-second-key")
        assert fusion.complete("a", pipeline=pipeline(ONE)).text == f"{MASK} and the-second-key"
        monkeypatch.setenv("OPENAI_API_KEY", "the-second-key")
        assert fusion.complete("b", pipeline=pipeline(ONE)).text == f"{MASK} and {MASK}"


def test_two_keys_of_which_one_begins_as_the_other(
    provider: Provider, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGER_API_KEY", f"{KEY}-and-more")
    text = f"{KEY} {KEY}-and-more {KEY}-and {KEY}"
    assert answered(provider, text, pipeline(ONE)) == f"{MASK} [LONGER_API_KEY] {MASK}-and {MASK}"


# Benchmarks: the folder with their answers, calls and reports.

ASKED: Final = [name for name in EVERY if not name.startswith("401")]
TIERS: Final = """
inputs: {question: A question.}
roles: {bulk: openai/mock, frontier: openai/other}
stages:
  answer:
    kind: cascade
    prompt: generate/pass-through
    tiers: [bulk, frontier]
    accept: {checks: {expression: EXPRESSION}}
output: answer
"""
BENCH: Final = """
tasks: {said: {file: said.jsonl}}
scorer: exact
on: all
arms: {one: {model: openai/mock}, two: {pipeline: two.yaml}, mine: {python: "MODULE:answer"}}
resamples: 2000
"""
TUNE: Final = """
tasks: {said: {file: said.jsonl}}
scorer: exact
arms: {two: {pipeline: two.yaml}}
baselines: [singles, oracle]
resamples: 2000
margin: 0.9
"""
JUDGED: Final = """
tasks: {said: {file: said.jsonl, sample: 4}}
scorer: {by: judge, model: openai/gpt-5.6}
on: all
arms: {one: {model: mine}}
baselines: [singles]
resamples: 2000
"""
LETTING_OUT: Final = """
import os


def answer(prompt):
    key = os.environ["OPENAI_API_KEY"]
    if "400" in prompt:
        raise ValueError(f"401 for {key}")
    said = {"text": key, "served": key}
    return {**said, "failure": f"with {key}"} if "text" in prompt else {**said, "data": {key: [key]}}


def score(answer, gold):
    raise ValueError(f"no {os.environ['OPENAI_API_KEY']}")
"""


def judging(seen: Seen) -> Answer:
    """The answer whose name stands in the prompt; a verdict that holds the key where one is asked for."""
    if "You compare two answers" in json.dumps(seen.body):
        return hostile(text=json.dumps({"reason": "since {key}", "better": "first"}))
    return by_name(seen)


@pytest.fixture
def desk(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A provider that says its key to every item, and a module that lets it out itself."""
    provider.script = judging
    rows = [{"id": f"i{n}", "prompt": f"do {name}.", "gold": "hello"} for n, name in enumerate(ASKED)]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    module = f"letting_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(LETTING_OUT)
    (tmp_path / "two.yaml").write_text(TIERS.replace("EXPRESSION", "\"'hello' in value\""))
    (tmp_path / "bench.yaml").write_text(BENCH.replace("MODULE", module))
    (tmp_path / "broken.yaml").write_text(BENCH.replace("MODULE", module).replace("exact", f"'{module}:score'"))
    (tmp_path / "judged.yaml").write_text(JUDGED)
    (tmp_path / "tune.yaml").write_text(TUNE)
    monkeypatch.setenv("FUSION_CONFIG", str(tmp_path / "fusion.toml"))
    (tmp_path / "fusion.toml").write_text(
        f'[endpoints.mine]\nmodel = "x"\napi_base = "{provider.url}"\nkey_env = "OPENAI_API_KEY"\n'
    )
    yield tmp_path
    sys.modules.pop(module, None)


WRITTEN: Final = {
    "answers.jsonl",
    "calls.db",
    "items.jsonl",
    "report.html",
    "report.md",
    "report.png",
    "results.json",
}


@pytest.mark.parametrize("suite", ["bench", "judged"])
def test_nothing_that_a_benchmark_writes(suite: str, provider: Provider, command: Command, desk: Path) -> None:
    done = command("--debug", "bench", f"{suite}.yaml", "-o", "out")
    assert done.code == 0, done.err
    names = {path.name for path in (desk / "out").iterdir()}
    assert names >= WRITTEN - {"report.png"}
    assert leaks(KEY, out=done.out, err=done.err, folder=desk / "out") == []
    assert MASK in (desk / "out" / "items.jsonl").read_text()
    assert (MASK in (desk / "out" / "report.html").read_text()) == (suite == "bench")


def test_nothing_that_a_search_writes(provider: Provider, command: Command, desk: Path) -> None:
    pipeline = TIERS.replace("EXPRESSION", "{any: [\"'hello' in value\", \"'zzz' not in value\"]}")
    (desk / "two.yaml").write_text(pipeline)
    done = command("--debug", "tune", "tune.yaml", "-o", "out")
    assert done.code == 0, done.err
    assert {path.name for path in (desk / "out").iterdir()} >= {"answers.jsonl", "calls.db", "tuned.json", "frontier"}
    assert leaks(KEY, out=done.out, err=done.err, folder=desk / "out") == []
    assert MASK in (desk / "out" / "answers.jsonl").read_text()


@pytest.mark.parametrize("words", [("bench", "bench.yaml"), ("tune", "tune.yaml")])
def test_nothing_that_is_said_of_a_key_that_is_refused(
    words: tuple[str, ...], provider: Provider, command: Command, desk: Path
) -> None:
    (desk / "two.yaml").write_text(TIERS.replace("EXPRESSION", '{any: ["value", "\'zzz\' not in value"]}'))
    if words[0] == "bench":
        (desk / "two.yaml").write_text(TIERS.replace("EXPRESSION", "value"))
    provider.script = EVERY["401"]
    done = command("--debug", *words, "-o", "out")
    assert done.code == 3
    assert MASK in done.err
    assert leaks(KEY, out=done.out, err=done.err, folder=desk) == []


def test_nothing_that_a_benchmark_raises(provider: Provider, desk: Path) -> None:
    for suite, script in (("bench", EVERY["401"]), ("broken", judging)):
        provider.script = script
        with pytest.raises(FusionError) as caught:
            run_suite(desk / f"{suite}.yaml", out=desk / suite)
        assert MASK in str(caught.value)
        assert leaks(KEY, error=caught.value, folder=desk) == []


# The ways around the door.


@pytest.mark.parametrize(
    "template",
    [
        "{{ environ }}",
        "{{ env }}",
        "{{ os.environ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ inputs.__class__.__mro__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.__base__.__subclasses__() }}",
        "{{ range(1)|attr('__class__') }}",
        "{{ ''|map('__class__')|list }}",
        "{{ ['x']|map(attribute='__class__.__mro__')|list }}",
        "{{ inputs.task.format.__globals__ }}",
        "{{ '{0.__init__.__globals__}'.format(inputs) }}",
        "{% include '/proc/self/environ' %}",
        "{% include '../../../../../../proc/self/environ' %}",
        "{% include 'proc/self/environ' %}",
        "{% include '.env' %}",
        "{% include './.env' %}",
        "{% import '.env' as keys %}{{ keys }}",
        "{{ '$OPENAI_API_KEY' }} ${OPENAI_API_KEY} %OPENAI_API_KEY% ~",
    ],
)
def test_a_template_cannot_read_the_environment(
    template: str, provider: Provider, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY}\n")
    monkeypatch.chdir("/")
    stages = {"answer": {"kind": "generate", "role": "bulk", "prompt": f"{template} as said"}}
    given = {"inputs": {"task": "what"}, "stages": stages, "output": "answer"}
    (tmp_path / "test.yaml").write_text(json.dumps(given))
    done = command("--debug", "run", str(tmp_path / "test.yaml"), "write", "--json")
    assert leaks(KEY, out=done.out, err=done.err, sent=repr([seen.body for seen in provider.requests])) == []


@pytest.mark.parametrize("place", ["when", "output", "over", "schema", "pipeline"])
def test_an_expression_or_a_file_of_a_pipeline_cannot_read_it_either(
    place: str, provider: Provider, command: Command, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY}\n")
    answer: dict[str, Any] = {"kind": "generate", "role": "bulk", "prompt": "say it"}
    output = "answer"
    if place == "when":
        answer["when"] = "environ or inputs.__class__"
    elif place == "output":
        output = "self.__init__.__globals__ or environ"
    elif place == "over":
        answer |= {"kind": "map", "over": "environ.values() | list"}
    elif place == "schema":
        answer["schema"] = "/proc/self/environ"
    else:
        answer = {"kind": "pipeline", "pipeline": "/proc/self/environ"}
    given = {"inputs": {"task": "what"}, "stages": {"answer": answer}, "output": output}
    (tmp_path / "test.yaml").write_text(json.dumps(given))
    done = command("--debug", "run", str(tmp_path / "test.yaml"), "write", "--json")
    assert done.code == 2
    assert leaks(KEY, out=done.out, err=done.err) == []
    assert provider.requests == []


def test_a_download_says_nothing_of_a_token(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FUSION_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", KEY)
    sources = (
        f"http://127.0.0.1:9/{quoted(KEY)}",
        "http://127.0.0.1:9/?sig=abcdefgh1234",
        f"http://me:{KEY}@127.0.0.1:9",
    )
    for source in sources:
        done = command("--debug", "models", "pull", "tiny", "--source", source)
        assert done.code == 2
        assert leaks(KEY, out=done.out, err=done.err, folder=tmp_path) == []
        assert "abcdefgh1234" not in done.out + done.err


@pytest.mark.parametrize("said", ["401", "no JSON", "refusal"])
def test_nothing_that_a_check_of_models_says(said: str, provider: Provider, command: Command) -> None:
    provider.script = EVERY[said]
    done = command("--debug", "models", "check", "--profile", "openai")
    assert leaks(KEY, out=done.out, err=done.err) == []
    assert MASK in done.out + done.err
    assert provider.requests


def test_what_the_scan_would_find(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "store.db").write_bytes(b"\x00" + KEY.encode() + b"\xff")
    with closing(sqlite3.connect(tmp_path / "packed.db")) as base:
        base.execute("CREATE TABLE calls (reply)")
        base.execute("INSERT INTO calls VALUES (?)", (zlib.compress(KEY.encode() * 9),))
        base.commit()
    error = UsageError("no")
    error.__context__ = UsageError(quoted(KEY))
    found = leaks(KEY, out=f"x {slashed(KEY)}", err="fine", folder=tmp_path, error=error)
    assert found == ["out", "folder:a/store.db", "folder:packed.db", "error:0:UsageError", "error:1:UsageError"]
    assert leaks(KEY, out=base64.b64encode(KEY.encode())) == []
