"""Budgets of the settings: all runs of a Fusion that name one stay within it, beside their own budgets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, ModelInfo, RunFailed, Say, ScriptedModel, Settings, UsageError
from fusion.client.options import Prompt
from fusion.core.config.trust import Trust, digest_of
from fusion.core.events import EventBase, Noted
from tests.conftest import Write, pipeline

ONE = pipeline(
    "inputs: {t: What.}\noutput: a\nstages:\n"
    "  a: {kind: generate, role: bulk, prompt: '{{ inputs.t }}', max_tokens: 10}\n"
)
MINE = "[endpoints.mine]\nmodel = 'x'\napi_base = 'http://localhost:1/v1'\n"


@pytest.fixture
def fusion(write: Write, model: ScriptedModel) -> Iterator[Any]:
    """Makes a Fusion on these settings."""
    made: list[Fusion] = []

    def make(text: str, **options: Any) -> Fusion:
        write(text)
        made.append(Fusion(profile="local", model=model, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("usd = 0.25", "the usd limit of 'budgets.nightly' of "),
        ("usd = '0.25'", "raise `budgets.nightly.usd`, lower `max_tokens`"),
        ("calls = 2", "the calls limit of 'budgets.nightly' of "),
        ("tokens = 110", "the tokens limit of 'budgets.nightly' of "),
        ("usd = 0.25\nseconds = 3600", "limit $0.25, spent $0.20"),
    ],
)
def test_a_budget_of_the_settings_ends_the_runs_that_pass_it(fusion: Any, limit: str, said: str) -> None:
    one = fusion(f"[budgets.nightly]\n{limit}\n")
    for _ in range(2):
        assert one.complete("x", pipeline=ONE, within="nightly").status == "ok"
    with pytest.raises(RunFailed) as caught:
        one.complete("x", pipeline=ONE, within="nightly")
    assert (caught.value.exit_code, said in str(caught.value)) == (4, True)
    assert "own/fusion.toml" in str(caught.value)
    assert one.complete("x", pipeline=ONE).status == "ok"


def test_the_time_of_a_budget_ends_its_runs(fusion: Any) -> None:
    late = ScriptedModel(lambda request: Say("late", delay=5), name="m/late")
    one = fusion("[budgets.night]\nseconds = 0.05\n").using(model=late)
    with pytest.raises(RunFailed) as caught:
        one.complete("x", pipeline=ONE, within="night")
    assert caught.value.exit_code == 4
    assert "budgets.night.seconds" in str(caught.value)


def test_every_name_is_one_budget_of_all_runs(fusion: Any) -> None:
    one = fusion("[budgets.day]\ncalls = 3\n[budgets.night]\ncalls = 1\n")
    other = one.using(profile="local")
    assert one.complete("x", pipeline=ONE, within="day").status == "ok"
    assert other.complete("x", pipeline=ONE, within="day").status == "ok"
    assert one.complete("x", pipeline=ONE, within="night").status == "ok"
    assert one.complete("x", pipeline=ONE, within="day").status == "ok"
    for name in ("day", "night"):
        with pytest.raises(RunFailed, match=f"'budgets.{name}'"):
            other.complete("x", pipeline=ONE, within=name)


def test_the_budget_of_a_run_holds_beside_a_shared_one(fusion: Any) -> None:
    one = fusion("[budgets.day]\nusd = 5\n")
    with pytest.raises(RunFailed, match="usd limit of 'run'"):
        one.complete("x", pipeline=ONE, within="day", budget={"usd": 0.05})


def test_under_a_budget_in_dollars_an_unknown_price_is_refused(fusion: Any, model: ScriptedModel) -> None:
    one = fusion("[budgets.day]\nusd = 5\n[budgets.calls]\ncalls = 5\n")
    free = one.using(model=ScriptedModel(lambda request: "x", info=ModelInfo(id="m/unpriced", provider="m")))
    with pytest.raises(RunFailed, match=r"the price of a call to 'm/unpriced' is not known, and 'budgets.day' of "):
        free.complete("x", pipeline=ONE, within="day")
    assert free.complete("x", pipeline=ONE, within="calls").status == "ok"


def test_a_run_that_a_shared_budget_ended_goes_on_within_another(fusion: Any, tmp_path: Path) -> None:
    one = fusion("[budgets.a]\ncalls = 1\n[budgets.b]\ncalls = 9\n", store=tmp_path / "runs.db")
    two = pipeline(
        "inputs: {t: What.}\noutput: b\nstages:\n"
        "  a: {kind: generate, role: bulk, prompt: '{{ inputs.t }}', max_tokens: 10}\n"
        "  b: {kind: generate, role: bulk, prompt: '{{ a }}', max_tokens: 10}\n"
    )
    with pytest.raises(RunFailed) as caught:
        one.complete("x", pipeline=two, within="a")
    assert one.resume(caught.value.result.run_id, within="b").status == "ok"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("[budgets.nightly]\nusd = 5\n", "nightyl", "no [budgets.nightyl] in your settings; did you mean 'nightly'?"),
        ("[budgets.a]\nusd = 5\n[budgets.b]\nusd = 5\n", "zzz", "; there are: a, b"),
        ("", "day", "no [budgets.day] in your settings; declare it in your own fusion.toml: `[budgets.nightly]`"),
        ("[limits]\nusd = 5\n", "", "no [budgets.] in your settings"),
        ("[budgets.nightly]\nusd = 5\n", "Nightly", "did you mean 'nightly'?"),
    ],
)
def test_a_name_that_is_not_declared_is_refused_before_any_call(
    fusion: Any, model: ScriptedModel, text: str, name: Prompt, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        fusion(text).complete("x", pipeline=ONE, within=name)
    assert said in str(caught.value)
    assert model.requests == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[budgets.day]\nuds = 5\n", "2:1 budgets.day.uds: unknown key 'uds'; did you mean 'usd'?"),
        ("[budgets.day]\n", "1:2 budgets.day: it limits nothing; give usd, tokens, calls or seconds"),
        ("[budgets.day]\nusd = -5\n", "2:1 budgets.day.usd: "),
        ("[budgets.day]\ncalls = 1.5\n", "2:1 budgets.day.calls: "),
        ('[budgets."a day"]\nusd = 5\n', "invalid budget name 'a day'"),
        ("[budgets]\nusd = 5\n", "2:1 budgets.usd: "),
        ("[budget.day]\nusd = 5\n", "1:1 budget: unknown key 'budget'; did you mean 'budgets'?"),
    ],
)
def test_a_mistake_in_a_table_is_told_with_its_place(write: Write, text: str, said: str) -> None:
    write(text)
    with pytest.raises(UsageError) as caught:
        Settings.from_environment()
    assert said in str(caught.value)


def test_the_budget_of_a_project_counts_once_it_is_trusted(
    fusion: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(tmp_path))
    (project / "fusion.toml").write_text("[budgets.day]\ncalls = 1\n")
    with pytest.warns(UserWarning, match=r"budgets"):
        one = fusion("")
    with pytest.raises(UsageError, match=r"counts once the file is trusted: fusion trust .*/project/fusion.toml"):
        one.complete("x", pipeline=ONE, within="day")
    Trust().record(project / "fusion.toml", digest_of({"budgets": {"day": {"calls": 1}}}), trusted=True)
    assert fusion("").complete("x", pipeline=ONE, within="day").status == "ok"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[limits.openia]\nrpm = 1\n", "[limits.openia] holds nothing"),
        ("[limits.antropic]\nrpm = 1\n", "did you mean 'anthropic'"),
        ('[limits."opnai/gpt-5"]\nrpm = 1\n', "no provider, endpoint or model is named 'opnai/gpt-5'"),
        (f"[limits.min]\nrpm = 1\n{MINE}", "did you mean 'mine'"),
        ("[limits.gpt-55]\nrpm = 1\n", "did you mean"),
        ("[limits.openai]\nrpm = 1\n", None),
        ('[limits."openai/gpt-99-new"]\nrpm = 1\n', None),
        ("[limits.m]\nrpm = 100000\n", None),
        ('[limits."m/paid"]\nrpm = 100000\n', None),
        (f"[limits.mine]\nrpm = 1\n{MINE}", None),
    ],
)
def test_a_limit_that_no_call_can_meet_is_noted(fusion: Any, table: str, said: str | None) -> None:
    events: list[EventBase] = []
    fusion(table).complete("x", pipeline=ONE, on_event=events.append)
    notes = [event.message for event in events if isinstance(event, Noted) and "[limits" in event.message]
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]
