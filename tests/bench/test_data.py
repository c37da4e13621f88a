"""The shipped task sets are what their list says, and every gold answer is one that its scorer can use."""

import re
from pathlib import Path
from typing import Any

import pytest

from fusion.bench.scorers.base import Answer
from fusion.bench.scorers.ifeval import UNCHECKED
from fusion.bench.scorers.registry import scorer
from fusion.bench.suite import Suite
from fusion.bench.tasks import Fields, TaskSet, make_tasks, read_tasks
from fusion.core.types import as_text
from fusion.pipeline.rows import read_rows

DATA = Path(__file__).parents[2] / "benchmarks" / "data"
README = (DATA / "README.md").read_text()
YAML = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0]
SCORERS = {
    "gsm8k": "number",
    "cruxeval": "code",
    "bbh": "exact",
    "nq": "contains",
    "invoices": "records",
    "yearbooks": "number",
    "humaneval": "unit_tests",
}


@pytest.mark.parametrize("row", re.findall(r"^\| `(.*?)` \| ([\d,]+)", README, re.MULTILINE), ids=lambda row: row[0])
def test_each_file_holds_as_many_items_as_its_list_says(row: tuple[str, str]) -> None:
    name, n = row
    if name.endswith("prices.json"):
        return
    assert len(read_rows(DATA / name)[0]) == int(n.replace(",", ""))


def test_every_file_is_in_the_list() -> None:
    files = {path.relative_to(DATA).as_posix() for path in DATA.rglob("*") if path.is_file()}
    assert files - {"README.md"} == {name for name in files if f"`{name}`" in README}


def suite() -> Suite:
    tasks = "".join(f"  {line}\n" for line in YAML.splitlines())
    ways = "".join(f"  {name}: {by}\n" for name, by in SCORERS.items())
    return Suite.from_yaml(f"tasks:\n{tasks}scorer:\n{ways}arms: {{a: {{model: x/y}}}}\n")


def task_set(name: str) -> TaskSet:
    source = suite().tasks[name]
    fields: dict[str, Any] = {key: getattr(source, key) for key in Fields.model_fields}
    return read_tasks(DATA / source.file, Fields(**fields), name=name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gsm8k", lambda gold: f"The answer is {gold.rpartition('####')[2].strip()}."),
        ("cruxeval", lambda gold: f"```python\n{gold}\n```"),
        ("bbh", as_text),
        ("nq", lambda gold: f"It was {gold[0]}."),
        ("invoices", as_text),
        ("yearbooks", lambda gold: f"It is {gold}."),
    ],
)
def test_a_right_answer_is_worth_1_and_another_0(name: str, said: Any) -> None:
    found = task_set(name).sample(300)
    one = scorer(SCORERS[name])
    wrong = 0.0
    for task in found.tasks:
        assert one.score(Answer(text=said(found.gold[task.id])), found.gold[task.id]).value == 1, task.id
        wrong += one.score(Answer(text="I do not know."), found.gold[task.id]).value
    assert wrong == 0


def test_all_of_ifeval_but_its_languages_can_be_scored() -> None:
    rows, sha256 = read_rows(DATA / "ifeval_input_data.jsonl")
    kept = [row for row in rows if not UNCHECKED & set(row["instruction_id_list"])]
    assert len(rows) - len(kept) == 31
    fields = Fields(id="key", gold=("instruction_id_list", "kwargs"))
    found = make_tasks(kept, fields, name="ifeval", file="ifeval", sha256=sha256)
    one = scorer("ifeval")
    assert not any(one.score(Answer(text=""), gold).value for gold in found.gold.values())
    assert any(one.score(Answer(text="Plain words."), gold).value for gold in found.gold.values())
