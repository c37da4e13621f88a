"""`cache`: exactly the same request is answered once, and the receipt says what that saved."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Pipeline, Price, Reply, Request, Say, ScriptedModel
from fusion.core.errors import ModelConnectionError, PipelineError, StoreError
from fusion.core.events import CallFinished, Noted
from fusion.store.open import open_store
from tests.conftest import FileStore, pipeline, run, said

PRICE = Price(input=Decimal("0.00001"), output=Decimal("0.00001"))


def same(cache: str, *, rest: str = "") -> Pipeline:
    """Six rows of which three say the same, asked one after another."""
    return pipeline(f"""
inputs: {{rows: {{default: [a, b, a, b, a, b]}}}}
stages:
  work: {{kind: map, over: inputs.rows, role: any, concurrency: 1, prompt: "Say {{{{ item.value }}}}", {cache}{rest}}}
output: work
""")


def model(script: Any = None) -> ScriptedModel:
    return ScriptedModel(script or (lambda request: said(request).upper()), name="m", price=PRICE)


def values(result: Any) -> list[Any]:
    return [item.value for item in result.items]


@pytest.mark.parametrize(("cache", "calls"), [("cache: off", 6), ("cache: run", 2), ("", 6)])
def test_within_a_run_the_same_is_asked_once_where_that_is_wanted(cache: str, calls: int) -> None:
    asked = model()
    with Fusion(model=asked) as fusion:
        result, events = run(fusion, None, pipeline=same(cache))
    assert len(asked.requests) == calls
    assert values(result) == ["SAY A", "SAY B"] * 3
    assert (result.receipt.calls, result.receipt.reused) == (calls, 6 - calls)
    assert result.cost.usd + result.receipt.saved.usd == Decimal("0.00024")
    reused = [event.reused for event in events if isinstance(event, CallFinished)]
    assert reused.count("cache") == 6 - calls


def test_those_who_ask_the_same_at_once_wait_for_one_reply() -> None:
    asked = ScriptedModel(Say("one", delay=0.05), name="m")
    at_once = pipeline("""
inputs: {rows: {default: [1, 1, 1, 1]}}
stages: {work: {kind: map, over: inputs.rows, role: any, cache: run, prompt: "Say {{ item.value }}"}}
output: work
""")
    with Fusion(model=asked) as fusion:
        result, _ = run(fusion, None, pipeline=at_once)
    assert values(result) == ["one"] * 4
    assert len(asked.requests) == 1


def test_runs_share_what_is_shared_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    for cache, calls in (("cache: run", 2), ("cache: shared", 2), ("cache: shared", 0), ("cache: run", 2)):
        asked = model()
        with Fusion(model=asked, store=path) as fusion:
            result, _ = run(fusion, None, pipeline=same(cache))
        assert values(result) == ["SAY A", "SAY B"] * 3
        assert len(asked.requests) == calls, cache
    assert result.receipt.saved.usd == 2 * result.cost.usd


def test_defaults_say_it_for_all_stages_and_a_run_before_them() -> None:
    everywhere = same("").model_copy(update={"defaults": same("").defaults.model_copy(update={"cache": "run"})})
    asked = model()
    with Fusion(model=asked) as fusion:
        run(fusion, None, pipeline=everywhere)
        assert len(asked.requests) == 2
        run(fusion, None, pipeline=everywhere, cache="off")
        assert len(asked.requests) == 8
        run(fusion, None, pipeline=same("cache: off"), cache="run")
        assert len(asked.requests) == 10


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"max_tokens": 77}, {"seed": 3}, {"stop": ("x",)}])
def test_other_parameters_are_another_request(change: dict[str, Any], tmp_path: Path) -> None:
    asked = model()
    plain = same("cache: shared")
    other = plain.model_copy(update={"stages": {"work": plain.stages["work"].model_copy(update=change)}})
    with Fusion(model=asked, store=tmp_path / "runs.db") as fusion:
        run(fusion, None, pipeline=plain)
        run(fusion, None, pipeline=other)
    assert len(asked.requests) == 4


def test_samples_have_answers_of_their_own_and_find_them_again(tmp_path: Path) -> None:
    numbers = iter(range(100))
    asked = ScriptedModel(lambda request: f"answer {next(numbers)}", name="m")
    panel = pipeline("""
inputs: {task: What.}
stages:
  panel: {kind: panel, members: {role: any, samples: 3, temperature: 1}, cache: shared}
  answer: {kind: render, template: "{% for one in panel | sort(attribute='value') %}{{ one }};{% endfor %}"}
output: answer
""")
    with Fusion(model=asked, store=tmp_path / "runs.db") as fusion:
        first, _ = run(fusion, pipeline=panel)
        second, _ = run(fusion, pipeline=panel)
    assert first.text == second.text == "answer 0;answer 1;answer 2;"
    assert len(asked.requests) == 3


def test_repeats_of_a_run_have_answers_of_their_own(tmp_path: Path) -> None:
    asked = model()
    with Fusion(model=asked, store=tmp_path / "runs.db") as fusion:
        for sample in (0, 1, 0, 1):
            run(fusion, None, pipeline=same("cache: shared"), sample=sample)
    assert len(asked.requests) == 4


def test_failures_and_what_was_cut_off_are_not_kept(tmp_path: Path) -> None:
    says = iter([ModelConnectionError("down"), Say("cut", finish_reason="length"), "whole", "another"])
    asked = ScriptedModel(lambda request: next(says), name="m")
    once = pipeline("""
stages: {one: {kind: generate, role: any, cache: shared, continuations: 0, prompt: Say it.}}
output: one
""")
    with Fusion(model=asked, store=tmp_path / "runs.db") as fusion:
        texts = [run(fusion, None, pipeline=once)[0].text for _ in range(3)]
    assert texts == ["", "whole", "whole"]
    assert len(asked.requests) == 3


def test_a_request_that_waits_for_another_that_fails_is_sent_itself() -> None:
    says = iter([Say(delay=0.05, error=ModelConnectionError("down")), *["fine"] * 9])
    asked = ScriptedModel(lambda request: next(says), name="m")
    at_once = pipeline("""
inputs: {rows: {default: [1, 1]}}
stages: {work: {kind: map, over: inputs.rows, role: any, cache: run, prompt: "Say {{ item.value }}"}}
output: work
""")
    with Fusion(model=asked) as fusion:
        result, _ = run(fusion, None, pipeline=at_once)
    assert "fine" in values(result)


def test_without_a_store_shared_is_of_this_run_and_that_is_said() -> None:
    asked = model()
    with Fusion(model=asked) as fusion:
        result, _ = run(fusion, None, pipeline=same("cache: shared"))
        run(fusion, None, pipeline=same("cache: shared"))
    assert len(asked.requests) == 4
    assert any("cache: shared" in note and "store" in note for note in result.notes)


@pytest.mark.parametrize("content", ["digest", "off"])
def test_where_words_may_not_be_kept_no_reply_is_shared_and_that_is_said(content: Any, tmp_path: Path) -> None:
    for cache, mode in (("cache: shared", None), ("", "shared")):
        asked = model(lambda request: "a word that nobody may keep")
        with Fusion(model=asked, store=tmp_path / "runs.db", content=content) as fusion:
            result, _ = run(fusion, None, pipeline=same(cache), **({} if mode is None else {"cache": mode}))
        assert (result.status, len(asked.requests)) == ("ok", 2)  # within the run they are found again
        assert any("cache: shared" in note and "content" in note for note in result.notes)
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"a word that nobody may keep" not in kept


def test_an_evicted_reply_is_asked_for_again(tmp_path: Path) -> None:
    asked = model(lambda request: "x" * 1000)
    store = open_store(tmp_path / "runs.db", cache_bytes=100)
    for _ in range(2):
        with Fusion(model=asked, store=store) as fusion:
            run(fusion, None, pipeline=same("cache: shared"))
    store.close()
    assert len(asked.requests) > 2


class Damaged(FileStore):
    """A store whose cache cannot be read any more."""

    async def cached(self, key: str) -> Reply | None:
        raise StoreError("the store is damaged")


def test_where_cached_replies_cannot_be_read_the_models_are_asked_and_that_is_said_once(tmp_path: Path) -> None:
    store = Damaged(tmp_path)
    for _ in range(2):
        asked = model()
        with Fusion(model=asked, store=store) as fusion:
            result, events = run(fusion, None, pipeline=same("cache: shared"))
        assert (result.status, len(asked.requests)) == ("ok", 2)
        said_of_it = [one.message for one in events if isinstance(one, Noted)]
        assert said_of_it == ["cached replies cannot be read: the store is damaged"]
    store.close()


def test_what_makes_no_calls_has_no_cache() -> None:
    with pytest.raises(PipelineError, match="cache"):
        pipeline("stages: {a: {kind: render, template: x, cache: run}}\noutput: a")
    with pytest.raises(PipelineError, match=r"off.*run.*shared"):
        pipeline("stages: {a: {kind: generate, prompt: x y, cache: always}}\noutput: a")


def test_one_model_is_not_answered_for_another(tmp_path: Path) -> None:
    one = ScriptedModel(lambda request: "from one", name="one")
    two = ScriptedModel(lambda request: "from two", name="two")
    both = pipeline("""
stages:
  a: {kind: generate, role: first, cache: shared, prompt: Say it.}
  b: {kind: generate, role: second, cache: shared, prompt: Say it.}
output: {a: a, b: b}
""")

    def request_of(model: ScriptedModel) -> Request:
        (request,) = model.requests
        return request

    with Fusion(roles={"first": one, "second": two}, store=tmp_path / "runs.db") as fusion:
        result, _ = run(fusion, None, pipeline=both)
    assert result.data == {"a": "from one", "b": "from two"}
    assert request_of(one).messages == request_of(two).messages
