"""`fusion drill`: the stages that would die without a provider, at what price the others go on, on paper and live."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Settings
from tests.cli.conftest import Command
from tests.cli.conftest import command as command  # a fixture
from tests.provider import Answer, Provider

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "DEEPSEEK_API_KEY")
SHIPPED = [
    ("single", "openai", ["openai"], {"answer": "dies"}),
    ("single", "openai", ["openai/gpt-5.6"], {"answer": "goes on"}),
    ("single", "mixed", ["openai"], {"answer": "unaffected"}),
    ("single", "mixed", ["family:claude"], {"answer": "goes on"}),
    ("plan-execute-review", "openai", ["openai"], dict.fromkeys(["plan", "work", "review", "answer"], "dies")),
    (
        "plan-execute-review",
        "mixed",
        ["provider:openai"],
        {"plan": "unaffected", "work": "goes on", "review": "goes on", "answer": "unaffected"},
    ),
    (
        "plan-execute-review",
        "openai",
        ["openai/gpt-5.6-luna", "openai/gpt-5.4-mini"],
        {"plan": "unaffected", "work": "loses parts", "answer": "unaffected"},
    ),
    ("vote", "openai", ["region:us"], {"panel": "dies", "vote": "not reached"}),
    ("vote", "deepseek", ["region:us"], {"panel": "unaffected", "vote": "unaffected"}),
    ("vote", "deepseek", ["region:cn"], {"panel": "dies", "vote": "not reached"}),
    ("fusion", "anthropic", ["family:gpt"], dict.fromkeys(["panel", "compare", "answer"], "unaffected")),
    ("self-fusion", "mixed", ["*haiku*"], dict.fromkeys(["panel", "compare", "answer"], "unaffected")),
    ("route-by-difficulty", "mixed", ["openai", "deepseek"], {"answer": "goes on"}),
    ("agree-or-escalate", "deepseek", ["deepseek/deepseek-v4-flash"], {"answer": "goes on"}),
]


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, "sk-0")


@pytest.mark.parametrize(("pipeline", "profile", "without", "fates"), SHIPPED)
def test_a_shipped_pipeline_on_paper(
    keyed: None, pipeline: str, profile: str, without: list[str], fates: dict[str, str]
) -> None:
    with Fusion(profile=profile) as fusion:
        (scenario,) = fusion.drill("Compare them.", pipeline=pipeline, without=without).scenarios
    found = {stage.name: stage.fate for stage in scenario.stages}
    assert found | fates == found
    for stage in scenario.stages:
        if stage.fate in ("dies", "not reached"):
            assert (stage.instead, stage.usd_after) == ((), Decimal(0))
        else:
            assert not set(stage.instead) & set(scenario.lost)
            assert stage.usd_after is not None
        if stage.fate == "unaffected":
            assert not set(stage.models) & set(scenario.lost)
            assert stage.models == stage.instead
    assert bool(scenario.dead) == bool(set(found.values()) - {"unaffected", "goes on"})


def test_the_price_is_that_of_the_quote_and_rises_with_a_dearer_model(keyed: None) -> None:
    with Fusion(profile="deepseek") as fusion:
        (scenario,) = fusion.drill("Compare.", pipeline="vote", without=["deepseek/deepseek-v4-flash"]).scenarios
        quote = fusion.quote("Compare.", pipeline="vote")
    assert scenario.usd is not None
    assert scenario.usd_after is not None
    assert scenario.usd_after > scenario.usd
    assert quote.usd.low <= scenario.usd <= quote.usd.high


def test_by_default_each_provider_is_taken_away_in_turn(keyed: None, command: Command) -> None:
    ran = command("drill", "fusion", "Compare.", "--profile", "mixed")
    assert ran.code == 0
    lines = [line for line in ran.out.splitlines() if line.startswith("without")]
    assert [line.split()[1] for line in lines] == ["provider:anthropic", "provider:openai", "provider:deepseek"]
    assert all("every stage goes on; likely cost $" in line for line in lines)


def test_the_table_and_the_exit_code(keyed: None, command: Command) -> None:
    ran = command("drill", "vote", "Compare.", "--profile", "openai", "--without", "openai")
    assert ran.code == 3
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[3][:4] == ["panel", "dies", "openai/gpt-5.6-luna", "-"]
    assert lines[4][:3] == ["vote", "not", "reached"]
    assert "2 of 2 stages would not go on: panel, vote" in ran.out
    assert "Without openai: openai/gpt-5.6-luna, openai/gpt-5.4-mini" in ran.out
    assert "exit code 0 if every stage goes on, 3 if one would die" in " ".join(command("drill", "-h").out.split())


def test_json(keyed: None, command: Command) -> None:
    ran = command("drill", "vote", "Compare.", "--profile", "openai", "--without", "openai", "--json")
    (scenario,) = json.loads(ran.out)["scenarios"]
    assert (ran.code, scenario["without"]) == (3, ["openai"])
    assert scenario["stages"][0]["fate"] == "dies"
    assert Decimal(scenario["stages"][0]["usd"]) > 0


def test_a_nested_pipeline_counts_in_its_stage(keyed: None, tmp_path: Path) -> None:
    text = (
        "inputs: {task: it}\nroles: {bulk: openai/gpt-5.6}\n"
        "stages: {part: {kind: pipeline, pipeline: vote, inputs: {question: inputs.task}}, "
        "answer: {kind: generate, role: frontier, prompt: '{{ part }}'}}\noutput: answer\n"
    )
    (tmp_path / "outer.yaml").write_text(text)
    with Fusion(profile="anthropic") as fusion:
        (scenario,) = fusion.drill("Compare.", pipeline=tmp_path / "outer.yaml", without=["openai"]).scenarios
    assert [(stage.name, stage.fate) for stage in scenario.stages] == [("part", "dies"), ("answer", "not reached")]


def test_a_stage_that_may_be_skipped_dies_alone(keyed: None, tmp_path: Path) -> None:
    text = (
        "inputs: {task: it}\nroles: {extra: openai/gpt-5.6}\nstages:\n"
        "  hint: {kind: generate, role: extra, prompt: Hint., on_error: skip, default: none}\n"
        "  answer: {kind: generate, role: frontier, prompt: 'Use {{ hint }}.'}\noutput: answer\n"
    )
    (tmp_path / "one.yaml").write_text(text)
    with Fusion(profile="anthropic") as fusion:
        drill = fusion.drill("Compare.", pipeline=tmp_path / "one.yaml", without=["openai"])
    assert [stage.fate for stage in drill.scenarios[0].stages] == ["dies", "unaffected"]
    assert not drill.survives


BAD = [
    (["--without", "regoin:us"], "unknown kind 'regoin' of the pattern 'regoin:us'; did you mean 'region'?"),
    (["--without", ""], "an empty pattern"),
    (["--live"], "--live needs --without PATTERN"),
    (["--budget", "1"], "--budget has no effect without --live"),
]


@pytest.mark.parametrize(("words", "says"), BAD)
def test_contradicting_options(keyed: None, command: Command, words: list[str], says: str) -> None:
    ran = command("drill", "single", "Compare.", *words)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err


def test_a_pattern_that_names_nothing_is_said(keyed: None, command: Command) -> None:
    ran = command("drill", "single", "Compare.", "--profile", "openai", "--without", "family:claude")
    assert ran.code == 0
    assert "'family:claude' names no model of this pipeline; it has: openai/gpt-5.6" in ran.out


# Live.


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Provider]]:
    """Two endpoints, `first` and `second`, and a pipeline whose chain has both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FUSION_STORE", str(tmp_path / "runs.db"))
    monkeypatch.setenv("FUSION_CONFIG", str(tmp_path / "own.toml"))
    with Provider(Answer("from the first")) as first, Provider(Answer("from the second")) as second:
        (tmp_path / "own.toml").write_text(
            "".join(
                f'[endpoints.{name}]\nmodel = "m"\napi_base = "{one.url}"\nprice = {{input = 1, output = 1}}\n'
                for name, one in {"first": first, "second": second}.items()
            )
        )
        (tmp_path / "one.yaml").write_text(
            "roles: {bulk: {chain: [first, second]}}\ninputs: {task: it}\n"
            "stages: {answer: {kind: generate, role: bulk, prompt: 'Say {{ inputs.task }}.'}}\noutput: answer\n"
        )
        yield {"first": first, "second": second}


@pytest.mark.parametrize("pattern", ["first", "model:first", "provider:first", "fir*"])
def test_a_live_drill_asks_the_next_of_the_chain(desk: dict[str, Provider], command: Command, pattern: str) -> None:
    ran = command("drill", "one.yaml", "hello", "--without", pattern, "--live")
    assert (ran.code, ran.out) == (0, "from the second\n")
    assert (len(desk["first"].requests), len(desk["second"].requests)) == (0, 1)
    assert "answer (bulk) went on with second in place of first" in ran.err
    assert "out of reach in this drill" in ran.err
    assert "$0.0000" in ran.err or "<$0.0001" in ran.err  # the receipt


def test_a_live_drill_without_any_model_fails_at_once(desk: dict[str, Provider], command: Command) -> None:
    ran = command("drill", "one.yaml", "hello", "--without", "first", "--without", "second", "--live")
    assert (ran.code, ran.out) == (3, "")
    assert "ModelConnectionError: 'second' is out of reach in this drill" in ran.err
    assert desk["first"].requests == desk["second"].requests == []


def test_a_live_drill_of_what_is_not_there_says_so(desk: dict[str, Provider], command: Command) -> None:
    ran = command("drill", "one.yaml", "hello", "--without", "openai", "--live", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["text"] == "from the first"
    assert "no call was answered by another model" in ran.err


def test_a_live_drill_takes_no_kept_reply_of_a_lost_model(desk: dict[str, Provider], command: Command) -> None:
    assert command("run", "one.yaml", "hello", "--cache", "shared").out == "from the first\n"
    assert command("drill", "one.yaml", "hello", "--without", "first", "--live").out == "from the second\n"


def test_an_outage_is_set_for_one_fusion_alone(desk: dict[str, Provider]) -> None:
    settings = Settings.from_environment()
    out = settings.model_copy(update={"outages": ("first",)})
    texts: list[Any] = []
    for one in (out, settings):
        with Fusion(settings=one) as fusion:
            texts.append(fusion.complete("hello", pipeline="one.yaml").text)
    assert texts == ["from the second", "from the first"]
