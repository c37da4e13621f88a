"""A model that only a fallback asked is named in the report; one that an arm asks first is not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.bench import Report
from fusion.core.errors import ContentFilterError
from tests.bench.conftest import CHEAP, STRONG, knowing, model

ONE = "inputs: {question: A question.}\nstages: {answer: {kind: generate, prompt: generate/pass-through}}\n"


def refused(request: object) -> str:
    raise ContentFilterError("no", model=STRONG)


@pytest.mark.parametrize(
    ("baselines", "fails", "noted"),
    [((), False, False), ((), True, True), (("singles",), False, False)],
    ids=["first of its role", "fallback", "measured alone"],
)
def test_a_model_that_only_a_fallback_asked_is_named(
    items: Callable[..., Path],
    bench: Callable[..., Report],
    tmp_path: Path,
    baselines: tuple[str, ...],
    fails: bool,
    noted: bool,
) -> None:
    items(2)
    chain = f"roles: {{frontier: {{chain: [{STRONG}, {CHEAP}]}}}}\noutput: answer\n"
    (tmp_path / "one.yaml").write_text(ONE + chain)
    models = [model(STRONG, refused if fails else knowing(lambda _: False)), model(CHEAP, knowing(lambda _: False))]
    report = bench(models, arms={"arm": {"pipeline": "one.yaml"}}, baselines=baselines)
    assert any("answered as a fallback" in note for note in report.analysis.notes) == noted
    assert not any(f"{STRONG} answered as a fallback" in note for note in report.analysis.notes)
