"""A store that version 0.1.0 has made: its runs are listed, shown, compared, exported and removed.

`data/README.md` says what is in it and how it was made.
"""

import functools
import json
import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, RunFailed, ScriptedModel, UsageError
from fusion.client import client
from fusion.core.errors import BadRequestError, StoreError
from tests.cli.conftest import Command, Ran
from tests.cli.conftest import command as command
from tests.store.data import cast
from tests.store.data.runs import RUNS, Past

DATA = Path(__file__).parent / "data"
PIPELINES = DATA / "pipelines"
KEPT = [name for name, past in RUNS.items() if past.answer]
GAUGE = "The gauge was read at midnight, and at noon it was read again."


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the store, which is the user's."""
    path = tmp_path / "kept.db"
    path.write_bytes(lzma.decompress((DATA / "store-0.1.0.db.xz").read_bytes()))
    monkeypatch.setenv("FUSION_STORE", str(path))
    return path


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, ScriptedModel]:
    """The models of the runs, for every Fusion that is made."""
    made = cast.models()
    monkeypatch.setattr(client.Fusion, "__init__", functools.partialmethod(client.Fusion.__init__, models=made))
    return made


@pytest.fixture
def fusion(command: Command, place: Path, models: Any) -> Callable[..., Ran]:
    """`fusion` with these words on the store."""
    return command


@pytest.fixture
def kept(place: Path, models: Any) -> Iterator[Fusion]:
    """A Fusion on the store."""
    with Fusion(profile="local", store=place) as made:
        yield made


Door = Callable[..., Ran]


def listed(fusion: Door, *words: str) -> list[dict[str, Any]]:
    done = fusion("runs", "list", "--json", "--limit", "100", *words)
    assert done.code == 0, done.err
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def ids(fusion: Door) -> dict[str, str]:
    """The ids of the runs by their names."""
    return dict(zip(RUNS, (run["run_id"] for run in reversed(listed(fusion))), strict=True))


def sent(models: dict[str, ScriptedModel]) -> dict[str, int]:
    """How often each of the models was asked."""
    return {name.partition("/")[2]: len(model.requests) for name, model in models.items() if model.requests}


def summary(run: dict[str, Any]) -> tuple[Any, ...]:
    return (
        run["status"],
        run["pipeline"],
        run["calls"],
        Decimal(run["cost"]["usd"]),
        run["cost"]["unknown_calls"],
        run["sessions"],
        run["content"],
    )


def expected(past: Past) -> tuple[Any, ...]:
    usd = Decimal(past.usd)
    return past.status, past.pipeline, past.calls, usd, past.unknown, past.sessions, past.content


# Listed and shown.


def test_every_run_is_listed_as_it_ended(fusion: Door) -> None:
    runs = listed(fusion)[::-1]
    assert [summary(run) for run in runs] == [expected(past) for past in RUNS.values()]
    assert [run["tags"] for run in runs] == [{"name": past.tag or name} for name, past in RUNS.items()]
    parents = {name: run["parent"] for name, run in zip(RUNS, runs, strict=True) if run["parent"]}
    chain = ids(fusion)["chain"]
    assert parents == {"branched": chain, "branch-interrupted": chain}
    assert fusion("runs", "list").err.startswith("25 runs, 110 calls and 3 cached replies in ")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("--status", "died"), ["killed"]),
        (("--status", "running"), []),
        (("--status", "partial"), ["rendered", "reviewed"]),
        (("--status", "interrupted"), ["chain", "interrupted"]),
        (("--status", "failed", "--pipeline", "chain"), ["digest-failed", "unusable", "failed"]),
        (("--tag", "name=vote"), ["vote"]),
    ],
)
def test_runs_are_found_by_status_pipeline_and_tag(fusion: Door, words: tuple[str, ...], names: list[str]) -> None:
    assert [run["tags"]["name"] for run in listed(fusion, *words)] == names


@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_shown_with_its_stages_and_receipt(fusion: Door, name: str) -> None:
    run, past = ids(fusion)[name], RUNS[name]
    shown = json.loads(fusion("runs", "show", run, "--json").out)
    assert summary(shown["run"]) == expected(past)
    stages = [f"{stage['stage']} {stage['status']} {stage['calls']}" for stage in shown["stages"]]
    assert ", ".join(stages) == past.stages
    paid = [line[way]["cost"] for line in shown["receipt"]["lines"] for way in ("measured", "estimated", "charged")]
    assert sum(Decimal(cost["usd"]) for cost in paid) == Decimal(past.usd)
    assert sum(cost["unknown_calls"] for cost in paid) == past.unknown
    assert len(shown["calls"]) == sum(int(stage.rsplit(" ", 1)[1]) for stage in past.stages.split(", "))
    status = past.status if past.sessions == 1 else f"{past.status} in {past.sessions} sessions"
    assert fusion("runs", "show", run).out.startswith(f"{run}: {past.pipeline}, {status}; profile local; began 20")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("killed", ["work (map) open, 2 calls", "check (review) open, 1 call", "to go on: fusion resume"]),
        (
            "failed",
            ["4 generate BadRequestError: the answer is refused", "failed: BadRequestError: the answer is refused"],
        ),
        (
            "unusable",
            [
                "1 generate scripted/worker, <$0.0001, set aside",
                "failed: ShapeError: 'scripted/worker' did not answer",
            ],
        ),
        ("interrupted", ["sub/better (generate) open", "failed: Interrupted: the run was interrupted"]),
        ("budget", ["failed: BudgetError: a call to 'scripted/worker' would pass the calls limit of 'run'"]),
        ("reviewed", ["read 3: ContentFilterError: no such gauge", "check 4: StageError: not accepted (reject"]),
        ("panel", ["panel second scripted/second"]),
        ("cached-second", ["1 1/work reused from cache", "1 call, 1 reused (saved <$0.0001)"]),
        ("vote", ["3 calls; 300 tokens in, 30 out; 3 calls of unknown cost"]),
    ],
)
def test_what_went_wrong_is_shown(fusion: Door, name: str, lines: list[str]) -> None:
    shown = fusion("runs", "show", ids(fusion)[name]).out
    plain = re.sub(r" +", " ", re.sub(r" 0\.\d-\d\.\d s|, \d\.\d s", "", shown))
    for line in lines:
        assert line in plain


def test_the_calls_of_a_run_are_shown_with_their_texts(fusion: Door) -> None:
    found = ids(fusion)
    picture = fusion("runs", "show", found["picture"], "1").out
    assert "\n--- system\nBe short.\n" in picture
    assert picture.endswith(
        "\n--- user\nLOOK at [image: image/png, 67 bytes] and say what it is\n\n--- reply\na grey square\n"
    )
    cut = json.loads(fusion("runs", "show", found["chain"], "3", "--json").out)
    assert (cut["finish_reason"], cut["text"]) == ("length", "The gauge was read at midnight, and at noon")
    planned = json.loads(fusion("runs", "show", found["planned"], "work/2/work", "--json").out)
    assert (planned["text"], planned["cost"], planned["usage"]["input"]) == ("rough 2", "0.0000140", 100)
    assert "do part 2" in planned["messages"][-1]["content"]


def test_calls_of_the_older_version_have_a_latency_and_no_waits(fusion: Door) -> None:
    found = ids(fusion)
    for name in ("planned", "failed", "digest"):
        shown = json.loads(fusion("runs", "show", found[name], "--json").out)
        assert all(call["waited"] is None for call in shown["calls"])
        assert any(call["latency"] is not None for call in shown["calls"])
        assert shown["receipt"]["times"]["slot"] == 0


@pytest.mark.parametrize(("name", "digests"), [("digest", True), ("off", False)])
def test_texts_that_were_not_kept_are_not_shown(fusion: Door, name: str, digests: bool) -> None:
    run = ids(fusion)[name]
    call = json.loads(fusion("runs", "show", run, "4", "--json").out)
    assert (call["messages"], call["text"], call["cost"]) == (None, None, "0.001400")
    assert (bool(call["digest"]), bool(call["text_digest"])) == (digests, digests)
    done = fusion("resume", run)
    assert (done.code, done.out) == (2, "")
    assert f"the prompts of run '{run}' were not kept (`content` in [store] was '{name}')" in done.err


# Compared, exported, removed.


@pytest.mark.parametrize(
    ("a", "b", "states"),
    [
        ("chain", "branched", {"same": 4, "different": 1}),
        ("nested", "interrupted", {"same": 2, "only a": 2}),
        ("planned", "killed-resumed", {"same": 1, "different": 9}),
        ("failed", "resumed", {"same": 3, "only b": 1}),
        ("resumed", "digest", {"same": 4}),
        ("resumed", "off", {"not kept": 4}),
    ],
)
def test_runs_are_compared(fusion: Door, a: str, b: str, states: dict[str, int]) -> None:
    found = ids(fusion)
    told = json.loads(fusion("runs", "diff", found[a], found[b], "--json").out)
    assert Counter(pair["state"] for pair in told["calls"]) == states


def test_a_diff_names_the_edit_and_both_answers(fusion: Door) -> None:
    found = ids(fusion)
    done = fusion("runs", "diff", found["chain"], found["branched"])
    edit = "-stages.answer.prompt: FINAL of {{ draft }}\n+stages.answer.prompt: FINAL in capitals of {{ draft }}\n"
    assert edit in done.out
    assert f"\n-final of {GAUGE}\n+FINAL OF {GAUGE}\n" in done.out
    assert "\ninputs: the same\n" in done.out


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("planned", (5, 8, 10, 10)),
        ("panel", (0, 8, 6, 5)),
        ("cached-second", (0, 4, 1, 2)),
        ("branched", (0, 10, 1, 5)),
        ("killed-resumed", (5, 12, 12, 10)),
        ("killed", (5, 4, 6, 4)),
        ("digest", (0, 6, 4, 4)),
    ],
)
def test_a_run_is_exported_whole(fusion: Door, name: str, counts: tuple[int, ...]) -> None:
    run = ids(fusion)[name]
    document = json.loads(fusion("runs", "export", run).out)
    assert (document["version"], document["run"]["run_id"]) == (1, run)
    assert tuple(len(document[part]) for part in ("decisions", "events", "attempts", "calls")) == counts
    full = RUNS[name].content == "full"
    assert (document["record"] is not None, document["result"] is not None) == (full, full and name != "killed")
    assert all((call["text"] is not None) == full for call in document["calls"])
    ends = Counter("open" if one["end"] is None else one["end"]["state"] for one in document["attempts"])
    assert (ends["open"], ends["lost"]) == {"killed": (2, 0), "killed-resumed": (0, 2)}.get(name, (0, 0))


def test_runs_are_pruned_and_removed(fusion: Door) -> None:
    found = ids(fusion)
    assert fusion("runs", "prune", "--older-than", "900000d").err == "removed 0 runs\n"
    assert fusion("runs", "prune", "--status", "failed", "--dry-run").err == "would remove 4 runs\n"
    assert fusion("runs", "prune", "--status", "failed", "--status", "died").err == "removed 5 runs\n"
    assert fusion("runs", "remove", found["chain"]).err == f"removed {found['chain']}\n"
    assert fusion("runs", "list").err.startswith("19 runs, 85 calls and 3 cached replies in ")
    assert fusion("runs", "prune", "--keep", "2").err == "removed 17 runs\n"
    assert [run["run_id"] for run in listed(fusion)] == [found["killed-resumed"], found["off"]]


# Not resumed: what templates see, and how plans are recorded, has changed since.


@pytest.mark.parametrize("name", KEPT)
def test_a_run_that_has_its_answer_gives_it_again(fusion: Door, models: dict[str, ScriptedModel], name: str) -> None:
    done = fusion("resume", ids(fusion)[name], "-q")
    assert (done.code, done.out) == (0, f"{RUNS[name].answer}\n")
    assert sent(models) == {}


UNFINISHED = [name for name, past in RUNS.items() if past.content == "full" and past.status not in ("ok", "partial")]


@pytest.mark.parametrize("name", UNFINISHED)
def test_a_run_without_an_answer_is_run_again(fusion: Door, models: dict[str, ScriptedModel], name: str) -> None:
    run, before = ids(fusion)[name], listed(fusion)
    done = fusion("resume", run, *(("--budget", "calls=20") if name == "budget" else ()))
    assert (done.code, done.out) == (2, "")
    assert "its record has the version 1, this one resumes 2); run it again with `fusion run`" in done.err
    assert (sent(models), listed(fusion)) == ({}, before)


def test_a_run_whose_prompts_were_not_kept_is_not_resumed(fusion: Door, models: dict[str, ScriptedModel]) -> None:
    done = fusion("resume", ids(fusion)["digest-failed"])
    assert (done.code, done.out, sent(models)) == (2, "", {})
    assert "were not kept (`content` in [store] was 'digest')" in done.err


def test_an_edited_pipeline_does_not_run_on_calls_of_another_version(
    fusion: Door, models: dict[str, ScriptedModel]
) -> None:
    done = fusion("resume", ids(fusion)["resumed"], "--pipeline", str(PIPELINES / "edited.yaml"))
    assert (done.code, done.out, sent(models)) == (2, "", {})
    assert "run it again with `fusion run`" in done.err


def test_a_run_whose_prompts_another_version_wrote_is_not_paid_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["a plan", None, "an answer"]
    model = ScriptedModel(lambda request: said.pop(0) or bad(), name="scripted/one")
    stages = "first: {kind: generate, role: r, prompt: one}\n  last: {kind: generate, role: r, prompt: '{{ first }}'}"
    path = tmp_path / "two.yaml"
    path.write_text(f"inputs: {{task: what}}\nroles: {{r: scripted/one}}\nstages:\n  {stages}\noutput: last\n")
    with Fusion(models={"scripted/one": model}, store=tmp_path / "runs.db") as made:
        with monkeypatch.context() as older:
            older.setattr("fusion.engine.manifest._RENDERING", 1)
            with pytest.raises(RunFailed) as failed:
                made.complete("do it", pipeline=path)
        with pytest.raises(StoreError, match="another version of Fusion wrote its prompts"):
            made.resume(failed.value.result.run_id)
        assert said == ["an answer"]


def bad() -> str:
    raise BadRequestError("no", model="scripted/one")


# New runs in the same store.


def test_a_reply_that_was_cached_answers_a_new_run(fusion: Door, models: dict[str, ScriptedModel]) -> None:
    done = fusion("run", str(PIPELINES / "words.yaml"), "c,d,a", "--json", "-q")
    result = json.loads(done.out)
    assert (result["status"], result["text"]) == ("ok", "<c> <d> <a>")
    assert [(line["calls"], line["reused"]) for line in result["receipt"]["lines"]] == [(1, 2)]
    assert Decimal(result["cost"]["usd"]) == Decimal("0.000014")
    assert sent(models) == {"worker": 1}
    assert fusion("runs", "list").err.startswith("26 runs, 113 calls and 4 cached replies in ")


# From Python.


def test_the_history_tells_the_same_from_python(kept: Fusion, models: dict[str, ScriptedModel]) -> None:
    runs = dict(zip(RUNS, reversed(kept.runs.list()), strict=True))
    sizes = kept.runs.sizes()
    assert (sizes.runs, sizes.calls, sizes.attempts, sizes.cached) == (25, 110, 107, 3)
    for name in KEPT:
        result = kept.runs.result(runs[name].run_id)
        assert (result.text, result.cost.usd) == (RUNS[name].answer, Decimal(RUNS[name].usd))
        assert kept.runs.pipeline(runs[name].run_id).name == RUNS[name].pipeline
    assert kept.runs.result(runs["reviewed"].run_id).data == [
        "The level of Oslo is 1.20.",
        "The level of Bergen is 0.95.",
    ]
    with pytest.raises(UsageError, match="has not ended \\(it is 'died'\\)"):
        kept.runs.result(runs["killed"].run_id)
    assert kept.runs.diff(runs["chain"].run_id, runs["branched"].run_id).counts == {"same": 4, "different": 1}
    with pytest.raises(UsageError, match="run it again with `fusion run`"):
        kept.resume(runs["failed"].run_id)
    assert sent(models) == {}


def test_the_lines_of_a_receipt_are_as_they_were(kept: Fusion) -> None:
    (panel,) = kept.runs.list(tags={"name": "panel"})
    lines = kept.runs.show(panel.run_id).receipt.lines
    assert [
        (line.stage, line.role, line.model, line.calls, line.fallbacks, line.measured.cost.usd) for line in lines
    ] == [
        ("panel", "lead", "scripted/lead", 1, 0, Decimal("0.0014")),
        ("panel", "worker", "scripted/worker", 1, 0, Decimal("0.000014")),
        ("panel", "second", "scripted/down", 0, 1, Decimal(0)),
        ("panel", "second", "scripted/second", 1, 0, Decimal("0.000014")),
        ("compare", "lead", "scripted/lead", 1, 0, Decimal("0.00104")),
        ("answer", "lead", "scripted/lead", 1, 0, Decimal("0.0014")),
    ]
