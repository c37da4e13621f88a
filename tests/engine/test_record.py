"""The record of a run: the same JSON and the same fingerprint, however many runs share a part of it."""

import hashlib
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fusion import Fusion, Price, ScriptedModel
from fusion.store.rows import RunFilter, RunRow
from tests.conftest import pipeline

ONE = pipeline("""
inputs: {task: What is to be done., rows: {format: jsonl, default: []}}
budget: {usd: 2}
stages: {answer: {kind: generate, role: any, prompt: "Do {{ inputs.task }} with {{ inputs.rows }}"}}
output: answer
""")
PRICED = Price(input=Decimal("0.000001"), output=Decimal("0.000002"))


def model(name: str = "any", **more: Any) -> ScriptedModel:
    return ScriptedModel("done", name=name, **more)


def kept(fusion: Fusion) -> list[RunRow]:
    assert fusion.store is not None
    return fusion.store.runs(RunFilter())[::-1]


def expected(data: dict[str, Any]) -> str:
    """The fingerprint of a record, from the whole of it."""
    relevant = {
        key: value
        for key, value in data.items()
        if key not in ("limits", "strict_usd", "file", "cache", "batch", "rendering")
    }

    def bare(data: Any) -> Any:
        if isinstance(data, dict):
            return {key: bare(value) for key, value in data.items() if key != "price_source"}
        return [bare(value) for value in data] if isinstance(data, list) else data

    relevant["roles"] = bare(relevant["roles"])
    return hashlib.sha256(json.dumps(relevant, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


WAYS: dict[str, Callable[[Fusion], object]] = {
    "plain": lambda fusion: fusion.complete("a task", pipeline=ONE),
    "other input": lambda fusion: fusion.complete("another é", pipeline=ONE),
    "rows": lambda fusion: fusion.complete("a task", pipeline=ONE, inputs={"rows": [{"a": 1}, {"a": None}]}),
    "sample": lambda fusion: fusion.complete("a task", pipeline=ONE, sample=3),
    "limits": lambda fusion: fusion.complete("a task", pipeline=ONE, budget={"usd": 1}),
    "cache": lambda fusion: fusion.complete("a task", pipeline=ONE, cache="off"),
    "again": lambda fusion: fusion.complete("a task", pipeline=ONE),
}
SAME = ("plain", "limits", "cache", "again")


def test_runs_that_share_a_pipeline_have_the_fingerprint_of_their_whole_record(tmp_path: Path) -> None:
    with Fusion(roles={"any": model(price=PRICED)}, store=tmp_path / "runs.db") as fusion:
        for run in WAYS.values():
            run(fusion)
        assert fusion.store is not None
        rows = dict(zip(WAYS, kept(fusion), strict=True))
        for row in rows.values():
            assert row.fingerprint == expected(dict(fusion.store.record(row.run_id) or {}))
        records = {way: fusion.store.record(row.run_id) or {} for way, row in rows.items()}
    assert len({row.fingerprint for row in rows.values()}) == len(WAYS) - len(SAME) + 1
    assert len({rows[way].fingerprint for way in SAME}) == 1
    assert records["rows"]["inputs"] == {"task": "a task", "rows": [{"a": 1}, {"a": None}]}
    assert (records["sample"]["sample"], records["plain"]["sample"]) == (3, 0)
    assert (records["limits"]["limits"]["usd"], records["again"]["limits"]["usd"]) == ("1", "2")
    assert (records["cache"]["cache"], records["again"]["cache"]) == ("off", None)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (model(), True),
        (model("other"), False),
        (model(price=PRICED), False),
    ],
)
def test_a_model_is_a_part_of_the_fingerprint(other: ScriptedModel, same: bool, tmp_path: Path) -> None:
    for roles in ({"any": model()}, {"any": other}):
        with Fusion(roles=roles, store=tmp_path / "runs.db") as fusion:
            fusion.complete("a task", pipeline=ONE)
            rows = kept(fusion)
    assert (rows[0].fingerprint == rows[1].fingerprint) is same
