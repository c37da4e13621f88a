"""Bad input end to end: each gets a message that says what, where and what to do, its exit code, and no traceback."""

import contextlib
import fcntl
import functools
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Model, ModelInfo, Result, Say, ScriptedModel
from fusion.core.errors import BadRequestError, ContentFilterError
from tests.cli import conftest as cli
from tests.cli.conftest import BARE, MANY, ONE, Command, Ran
from tests.conftest import plan_text, said, scripted, subtasks

command = cli.command
pipeline = cli.pipeline

Run = Callable[..., Ran]
Write = Callable[[str], str]


@pytest.fixture
def run(command: Command, pipeline: Write, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`fusion run` of a pipeline's text; `model` is a script for every role, or a Model."""

    def start(text: str, *words: str, model: Any = "fine", stdin: bytes | None = None, **given: str) -> Ran:
        from fusion.cli import session

        one = model if isinstance(model, Model) else scripted(model, "it")
        monkeypatch.setattr(session, "Fusion", functools.partial(Fusion, models={one.info.id: one}))
        done = command("run", given.get("pipeline") or pipeline(text), *words, "-m", one.info.id, stdin=stdin)
        assert "Traceback" not in done.err
        return done

    return start


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other without a pause."""
    from fusion.models.wrappers.retry import Retrying

    monkeypatch.setattr(Retrying, "_jitter", lambda self, number: 0.0)


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
    model = ScriptedModel("fine", info=ModelInfo(id="openai/gpt-5.6-lunna", provider="openai"))
    done = run(ONE, "x", model=model)
    assert (done.code, done.out) == (0, "fine\n")
    assert "no price is known for 'openai/gpt-5.6-lunna'" in done.err
    assert "did you mean 'openai/gpt-5.6-luna'" in done.err


# Pipeline files.

GOOD = "stages: {answer: {kind: generate, role: bulk, prompt: Say hello.}}\noutput: answer\n"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "bad.yaml: the file is empty"),
        (b"# nothing\n", "bad.yaml: the file is empty"),
        (b"- a\n- b\n", "bad.yaml:1:1: expected a mapping with the keys `stages` and `output`"),
        (b"just words\n", "bad.yaml:1:1: expected a mapping with the keys `stages` and `output`"),
        (b"stages: [1, 2\noutput: }\n", "bad.yaml:2:7: not YAML: "),
        (b"\x7fELF\x02\x01\x01\x00\x00", "'bad.yaml' is a binary file, not text"),
        (b"\x89PNG\r\n\x1a\n", "'bad.yaml' is not UTF-8 text (byte 0); save it as UTF-8"),
        (b"description: caf\xe9\n", "'bad.yaml' is not UTF-8 text (byte 16); save it as UTF-8"),
        (GOOD.encode("utf-16"), "'bad.yaml' is not UTF-8 text (byte 0); save it as UTF-8"),
        (b"a" * 10_000_000, "'bad.yaml' is larger than 262,144 bytes"),
        (b"stages: " + b"[" * 5_000, "nested deeper than"),
        (b"stages: &a {x: 1}\nstages: *a\noutput: x\n", "bad.yaml:2:1 stages: "),
        (b"stages: !!python/object/apply:os.system [id]\noutput: x\n", "bad.yaml:1:9 stages: "),
        (b"a: &a [x,x]\nb: &b [*a,*a]\n" + b"c: [" + b"*b," * 2_000 + b"]\n", "aliases"),
        (b'name: "\\e[31mred"\nstages: {b: {kind: "\\e]0;pwn\\a"}}\noutput: b\n', "no kind '\\x1b]0;pwn\\x07'"),
        (GOOD.replace("Say hello.", "{schema: 1}").encode(), "bad.yaml:1:55 stages.answer.prompt: expected text"),
        (
            GOOD.replace("role", "schema: gone.json, role").encode(),
            "there is no file 'gone.json' beside the pipeline",
        ),
        (GOOD.replace("role", "schema: {n: numbr}, role").encode(), "unknown type 'numbr'; did you mean 'number'?"),
        (GOOD.replace("output: answer", "output: anwser").encode(), "no stage 'anwser'; did you mean 'answer'?"),
        (
            b"stages: {a: {kind: map, over: '[1]', prompt: x, default: none}}\noutput: a\n",
            "bad.yaml:1:58 stages.a.default: readers of 'a' get a list of items; give a list, such as []",
        ),
        (
            GOOD.replace("output: answer", "output: answer.data").encode(),
            "bad.yaml:2:9 output: 'answer.data' is empty because 'answer' has no `schema`; add one, or read",
        ),
        (GOOD.replace("output: answer", "output: {}").encode(), "bad.yaml:2:9 output: "),
        (GOOD.replace("answer:", '"../answer":', 1).encode(), "invalid name '../answer'"),
        (GOOD.replace("Say hello.", "'{{ answer.__class__ }}'").encode(), "'answer' has no field '__class__'"),
    ],
)
def test_a_file_that_is_no_pipeline_says_what_and_where(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_bytes(raw)
    for words in (["validate", "bad.yaml"], ["run", "bad.yaml", "x"], ["graph", "bad.yaml"]):
        done = command(*words)
        assert (done.code, done.out) == (2, "")
        assert says in done.err
        assert "Traceback" not in done.err
        assert "\x1b" not in done.err


def test_marks_and_line_ends_of_other_systems_are_no_mistakes(run: Run, tmp_path: Path) -> None:
    for text in ("\ufeff" + BARE, BARE.replace("\n", "\r\n"), BARE.replace("\n", "\r")):
        with (tmp_path / "other.yaml").open("w", newline="") as file:
            file.write(text)
        assert run(BARE, "-q", pipeline=str(tmp_path / "other.yaml")) == Ran(0, "fine\n", "")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "no pipeline ''; there are: "),
        (".", "'.' is a folder, not a pipeline file"),
        ("/dev/null", "'/dev/null' is a pipe or a device, not a file"),
        ("gone.yaml", "'gone.yaml' does not exist"),
        ("plan-exec-review", "did you mean 'plan-execute-review'?"),
        ("x" * 5_000, "no pipeline 'xxx"),
        ("a\x1b[31mb", "no pipeline 'a\\x1b[31mb'"),
        ("/etc/passwd", "/etc/passwd:1:1: expected a mapping with the keys"),
    ],
)
def test_a_name_that_is_no_pipeline(command: Command, name: str, says: str) -> None:
    for words in (["run", name, "x"], ["validate", name], ["graph", name]):
        done = command(*words)
        assert (done.code, done.out) == (2, "")
        assert says in done.err
        assert "Traceback" not in done.err


# Inputs.


def test_an_input_without_end_is_not_read_to_its_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.cli.arguments._MOST", 1_000_000)
    done = run(ONE, "x", "-i", "context=@/dev/zero")
    assert (done.code, done.out) == (2, "")
    assert "'/dev/zero' has more than 1 MB; give a shorter one" in done.err
    done = run(ONE, "x", stdin=b"a" * 1_000_001)
    assert done.code == 2
    assert "standard input has more than 1 MB" in done.err


def test_half_of_a_character_is_no_text(run: Run) -> None:
    done = run(ONE, "pip\udce9")
    assert (done.code, done.out) == (2, "")
    assert "input 'task' is not text: character 3 is not Unicode; give it in UTF-8" in done.err


def test_an_input_too_long_for_the_model_says_by_how_much_and_what_to_do(run: Run) -> None:
    info = ModelInfo(id="scripted/short", provider="scripted", context=3_000)
    done = run(ONE, "word " * 4_000, model=ScriptedModel("never", info=info))
    assert (done.code, done.out) == (2, "")
    assert "the request has about 5,003 tokens and may get 2,000 more" in done.err
    assert (
        "'scripted/short' has room for 3,000: about 4,003 too many. Shorten the input, lower `max_tokens`" in done.err
    )
    assert "in 'answer'" in done.err


def test_no_key_and_no_weights_says_both_ways_on(
    command: Command, pipeline: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSION_MODELS_DIR", str(tmp_path / "none"))
    done = command("run", pipeline(BARE), "-q")
    assert (done.code, done.out) == (2, "")
    assert "run `fusion models pull small` (491 MB), or set a provider's key, such as OPENROUTER_API_KEY" in done.err


# Models that do not do what they are asked.

SHAPED = """
stages: {answer: {kind: generate, role: bulk, prompt: Count., schema: {n: integer}}}
output: answer
"""
PLANNED = """
stages:
  plan: {kind: plan, role: bulk, prompt: "plan it", max_subtasks: 4}
  work: {kind: map, over: plan, role: bulk, prompt: "do {{ item.title }}"}
  answer: {kind: merge, over: work, strategy: concat}
output: answer
"""
CHECKED = """
stages:
  work: {kind: map, over: "['a']", role: bulk, prompt: "work"}
  review: {kind: review, over: work, role: bulk, prompt: "{{ item.source }}", checks: {numbers_from: "'12 and 30'"}}
  answer: {kind: merge, over: review, strategy: concat}
output: answer
"""


def result_of(done: Ran) -> Result:
    return Result.model_validate_json(done.out)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("I would say it is about seven.", "there is no JSON in the answer, which begins: 'I would say it is about"),
        ('{"n": "seven"}', "$.n: expected integer, got 'seven'"),
        ('{"n": 7, "m": 8}', "$: 'm' is not a field of it"),
        ("[7]", "$: expected object, got [7]"),
        ('{"n": ' + "9" * 5_000 + "}", "the JSON cannot be read"),
        ('{"n": ' + "[" * 5_000, "the JSON"),
        ('{"n": "\\ud800"}', "$.n: expected integer"),
        ("", "gave an empty answer"),
        ("   \n", "gave an empty answer"),
        (Say('{"n": 7', finish_reason="length"), "was cut off at its output limit; raise `max_tokens`"),
        (Say('{"n": 7}', finish_reason="length"), "was cut off at its output limit; raise `max_tokens`"),
        (Say('{"n": 7}', finish_reason="content_filter"), "truncated the reply"),
        (Say('{"n": 7}', finish_reason=None), "broke off without a finish reason"),
        (ContentFilterError("the content is refused; change the text"), "the content is refused; change the text"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_answer_that_is_not_what_was_asked_for_is_never_taken_for_it(
    run: Run, quick: None, answer: Any, says: str
) -> None:
    done = run(SHAPED, model=answer)
    assert (done.code, done.out) == (3, "")
    assert "fusion: the run failed in 'answer': " in done.err
    assert says in done.err
    done = run(SHAPED, "--json", "-q", model=answer)
    assert done.code == 3
    assert result_of(done).status == "failed"


def test_a_lie_about_numbers_is_found_and_the_rest_is_kept(run: Run) -> None:
    def script(request: Any) -> Any:
        return {"issues": [], "verdict": "accept"} if said(request) == "review" else "they are 12 and 31"

    done = run(CHECKED, "--json", model=script)
    result = result_of(done)
    assert (done.code, result.status) == (3, "failed")
    assert "number 31 is not in the source" in done.err
    assert [item.value for item in result.stages["work"].items] == ["they are 12 and 31"]


def planner(parts: list[Any]) -> Callable[[Any], Any]:
    return lambda request: plan_text(parts) if "plan it" in said(request) else f"did {said(request)}"


def test_a_plan_of_ten_thousand_subtasks_is_cut_to_what_the_pipeline_allows(run: Run) -> None:
    done = run(PLANNED, model=ScriptedModel(planner(subtasks(10_000)), name="scripted/it", respect_limit=False))
    assert done.code == 0
    assert done.out.count("did do part") == 4
    assert "the plan has more than 4 subtasks; the rest is left out (max_subtasks)" in done.err
    assert done.err.count("max_subtasks") == 1


@pytest.mark.parametrize("reply", [plan_text([]), "{}", "no plan today", '{"subtasks": 5}', plan_text([{}])])
def test_a_plan_without_subtasks_is_asked_for_once_more_and_then_fails(run: Run, reply: str) -> None:
    done = run(PLANNED, model=reply)
    assert (done.code, done.out) == (3, "")
    assert "asking once more" in done.err
    assert "fusion: the run failed in 'plan': StageError: no plan could be read, twice: " in done.err


def test_a_plan_of_words_among_objects_loses_none_of_the_objects(run: Run) -> None:
    parts: list[Any] = subtasks(3)
    done = run(PLANNED, model=planner([parts[0], "and then", 12, parts[1], None, parts[2]]))
    assert (done.code, done.out) == (0, "did do part 1\n\ndid do part 2\n\ndid do part 3\n")
    assert "subtask 2 is not an object and is left out" in done.err


def test_a_plan_with_a_torn_subtask_is_not_taken_for_whole(run: Run) -> None:
    torn = plan_text(subtasks(3)).replace('"title": "part 2"', '"title": "part \\q 2"')

    def script(request: Any) -> Any:
        words = said(request)
        if "plan it" not in words:
            return f"did {words}"
        return plan_text(subtasks(3)[1:]) if "Subtasks 1 to 1" in words else torn

    done = run(PLANNED, model=script)
    assert (done.code, done.out) == (0, "did do part 1\n\ndid do part 2\n\ndid do part 3\n")
    assert "the plan cannot be parsed after subtask 1; asking for the rest" in done.err


# Templates.


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for i in range(100000000) %}x{% endfor %}", "Range too big"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "200,000 loop steps"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "endless recursion"),
        ("{% for i in range(90000) %}{{ 'x' * 2000 }}{% endfor %}", "writes more than 10,000,000 characters"),
        ("{{ 'x' * 100000000 }}", "more than 1,000,000 elements"),
        ("{{ 9 ** 99999999 }}", "powers above 64 are refused"),
        ("{{ ''.__class__.__mro__ }}", "'__class__' of 'str' object is unsafe"),
        ("{{ inputs|attr('__class__') }}", "'__class__' of 'dict' object is unsafe"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_template_that_runs_away_ends_the_run_before_any_call(run: Run, template: str, says: str) -> None:
    model = ScriptedModel("never", name="scripted/it")
    done = run(GOOD.replace("Say hello.", f'"{template}"'), model=model)
    assert (done.code, done.out) == (2, "")
    assert "fusion: the run failed in 'answer': PromptError: inline prompt line 1: " in done.err
    assert says in done.err
    assert not model.requests


def test_a_template_that_includes_itself(command: Command, tmp_path: Path) -> None:
    (tmp_path / "prompts" / "a").mkdir(parents=True)
    (tmp_path / "prompts" / "a" / "b.md.j2").write_text('{% include "a/b" %}')
    (tmp_path / "test.yaml").write_text(GOOD.replace("Say hello.", "a/b"))
    done = command("run", str(tmp_path / "test.yaml"))
    assert (done.code, done.out) == (2, "")
    assert "test.yaml:1:55 stages.answer.prompt: a/b line 1: template 'a/b' includes itself\n" in done.err


def test_keys_of_data_come_before_the_methods_of_its_kind(run: Run) -> None:
    text = """
inputs: {d: {default: {items: [1, 2], values: v, keys: k, get: g, pop: p, update: u, copy: c}}}
stages:
  work: {kind: map, over: inputs.d.items, role: bulk, prompt: "{{ item.value }} {{ inputs.d.values }}"}
  answer:
    kind: generate
    role: bulk
    prompt: "{{ work[0].value }} {{ inputs.d.keys }}{{ inputs.d.get }}{{ inputs.d.pop }}{{ inputs.d.copy }}"
output: answer
"""
    assert run(text, "-q", model=lambda request: said(request)) == Ran(0, "1 v kgpc\n", "")


# Control characters.

STEERING = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b1m"


def test_what_a_model_says_does_not_steer_the_terminal_of_who_reads_the_messages(run: Run) -> None:
    def script(request: Any) -> Any:
        return BadRequestError(f"refused: {STEERING}", model="scripted/it") if "b" in said(request) else STEERING

    done = run(MANY, "a,b", "-v", model=script)
    assert done.code == 3
    assert "refused: " in done.err
    assert not set(done.err) & set("\x1b\x07\x9b")
    # Off a terminal the answer is data, and data is not changed.
    assert run(ONE, "x", "-q", model=STEERING).out == f"{STEERING}\n"
    assert result_of(run(ONE, "x", "-q", "--json", model=STEERING)).text == STEERING


def test_a_name_of_several_lines_is_said_on_one(run: Run) -> None:
    done = run('name: "mine\\nfusion: interrupted"\n' + BARE)
    assert done.code == 0
    assert done.err.startswith("mine fusion: interrupted: run ")


def test_half_of_a_character_in_an_answer_harms_nothing(run: Run, tmp_path: Path) -> None:
    broken = Say(pieces=["smile \ud83d", "\ude00", " bye \ud83d"])
    model = ScriptedModel(broken, name="scripted/it", respect_limit=False)
    done = run(ONE, "x", "--json", "--events-to", str(tmp_path / "events"), model=model)
    assert (done.code, result_of(done).text) == (0, "smile \U0001f600 bye \ufffd")
    assert (tmp_path / "events").read_text().count("\n") > 4
    shaped = SHAPED.replace("integer", "string")
    assert run(shaped, "-q", model='{"n": "\\ud800 x"}').out == '{"n": "\N{REPLACEMENT CHARACTER} x"}\n'
    assert run(shaped.replace("output: answer", "output: answer.data"), "-q", model='{"n": "\\ud800 x"}').out == (
        '{"n": "\ufffd x"}\n'
    )


# Surroundings: each in a process of its own.


def shell(line: str, **env: str | None) -> Ran:
    """A line of the shell, where `fusion` is the command with scripted models; a variable that is None is unset."""
    whole = {name: value for name, value in {**cli.environment(), **env}.items() if value is not None}
    script = f'fusion() {{ {shlex.quote(sys.executable)} -m tests.cli.scripted "$@"; }}; {line}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=whole, timeout=60)
    ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in ran.err
    return ran


@pytest.mark.parametrize(
    ("line", "code", "out", "says"),
    [
        ("fusion run $FILE x -m scripted/echo -q <&-", 0, "x / nothing\n", ""),
        ("fusion run $FILE x -m scripted/echo -q >&-", 0, "", ""),
        ("fusion run $FILE x -m scripted/echo 2>&-", 0, "x / nothing\n", ""),
        ("fusion run $FILE - -m scripted/echo -q <&-", 2, "", "PROMPT reads standard input, which is closed"),
        ("fusion run $FILE - -m scripted/echo -q 0>/dev/null", 2, "", "PROMPT cannot read standard input: Bad file"),
        ("fusion --help >/dev/full", 2, "", "cannot write: No space left on device"),
        ("fusion run $FILE x -m scripted/echo -q 2>/dev/full", 0, "x / nothing\n", ""),
        (
            "fusion run $FILE x -m scripted/echo -q -o /dev/full",
            2,
            "x / nothing\n",
            "cannot write to '/dev/full': No space left on device",
        ),
        (
            "fusion run $FILE x -m scripted/echo -q --events-to /dev/full",
            2,
            "x / nothing\n",
            "--events-to '/dev/full': No space left on device; the events are incomplete",
        ),
        ("fusion run $FILE x -m scripted/long -q | head -n 1", 0, "a line of the answer\n", ""),
        (
            "fusion run $FILE $'pip\\xe9' -m scripted/echo -q",
            2,
            "",
            "input 'task' is not text: character 3 is not Unicode",
        ),
        ("fusion run $FILE x -m scripted/echo -o ~nobody-here/x", 2, "", "there is no folder"),
    ],
)
def test_what_is_closed_full_or_gone(
    pipeline: Write, tmp_path: Path, line: str, code: int, out: str, says: str
) -> None:
    done = shell(line, cwd=tmp_path, FILE=pipeline(ONE))
    assert (done.code, done.out) == (code, out)
    assert done.err.startswith("fusion: ") if says else not done.err
    assert says in done.err
    assert done.err.count("\n") <= 1


@pytest.mark.parametrize(
    "env",
    [
        {"HOME": None},
        {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none", "XDG_CONFIG_HOME": "/proc/none"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
        {"COLUMNS": "1", "LINES": "many", "TERM": "nonsense", "NO_COLOR": ""},
        {"FUSION_MODELS_DIR": "~nobody-here/models", "FUSION_MODELS_SOURCE": ",nonsense"},
    ],
)
def test_a_strange_environment_is_no_reason_to_fail(pipeline: Write, env: dict[str, Any]) -> None:
    done = shell("fusion run $FILE pipé -m scripted/echo", FILE=pipeline(ONE), **env)
    assert (done.code, done.out) == (0, "pipé / nothing\n")
    assert "answer: ok" in done.err


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("FUSION_PROFILE", "locl", "FUSION_PROFILE: profile 'locl' does not exist; did you mean 'local'?"),
        ("FUSION_PROFILE", "openai", "profile 'openai' needs a key and OPENAI_API_KEY is not set"),
        ("FUSION_LOCAL_THREADS", "many", "FUSION_LOCAL_THREADS is 'many': give a whole number from 1 to"),
        ("FUSION_LOCAL_THREADS", "-1", "FUSION_LOCAL_THREADS is '-1'"),
        ("FUSION_MODELS_DIR", "/dev/null/x", "in '/dev/null/x': run `fusion models pull small`"),
        ("FUSION_MODELS_DIR", "~nobody-here/x", "in '~nobody-here/x': run `fusion models pull small`"),
    ],
)
def test_a_setting_that_is_nonsense_is_named(
    command: Command, pipeline: Write, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    done = command("run", pipeline(BARE))
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert done.err.count("\n") == 1


def test_a_working_directory_that_is_gone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run(ONE, "x", "-q") == Ran(0, "fine\n", "")
    monkeypatch.chdir(tmp_path)


def test_a_file_for_the_answer_with_a_name_that_no_file_can_have(run: Run) -> None:
    for option in ("-o", "--events-to"):
        done = run(ONE, "x", option, "n" * 300)
        assert (done.code, done.out) == (2, "")
        assert f"{option} 'nnn" in done.err
        assert "File name too long" in done.err


def test_on_the_narrowest_terminal_the_answer_is_whole_and_steers_nothing(pipeline: Write) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 1, 1, 0, 0))
    words = ["run", pipeline(ONE), "\\e[2J\x1b[2J\x07clear", "-m", "scripted/echo"]
    env = {"TERM": "xterm", "COLUMNS": "", "LINES": ""}
    with cli.start(
        *words, module="tests.cli.scripted", stdin=theirs, stdout=theirs, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65536):
                written += piece
        os.close(ours)
    assert process.returncode == 0
    assert b"\\e[2J\xef\xbf\xbd[2J\xef\xbf\xbdclear / nothing" in written
    assert b"\x1b[2J" not in written
    assert b"\x07" not in written
