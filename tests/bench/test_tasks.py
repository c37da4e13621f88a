"""Task sets of a user's own: what is read, how it is split, and what is said of a file that cannot be used."""

import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path

import pytest

from fusion.bench.tasks import Fields, TaskSet, folds, read_tasks, split_of
from fusion.core.errors import UsageError

ROWS = [{"id": f"q{n}", "question": f"What is {n}+1?", "answer": n + 1} for n in range(200)]
LINES = "\n".join(json.dumps(row) for row in ROWS)


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    raw = text.encode()
    path.write_bytes(
        gzip.compress(raw) if name.endswith("gz") else lzma.compress(raw) if name.endswith("xz") else raw
    )
    return path


# Reading.


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.json"])
def test_a_file_is_read_in_each_of_its_forms(tmp_path: Path, name: str) -> None:
    text = json.dumps({"canary": "x", "examples": ROWS}) if name.endswith(".json") else LINES
    tasks = read_tasks(put(tmp_path, name, text))
    assert (tasks.name, len(tasks.tasks), len(tasks.sha256)) == ("a", 200, 64)
    assert tasks.tasks[3].id == "q3"
    assert tasks.tasks[3].prompt == "What is 3+1?"
    assert tasks.gold["q3"] == 4


def test_a_csv_is_read_with_its_quotes_and_lines(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", '\ufeffprompt,gold,doc\n"two\nlines, and ""quotes""",7,d1\nplain,8,d1\n')
    tasks = read_tasks(path, Fields(cluster="doc", inputs=("doc",)))
    assert [task.id for task in tasks.tasks] == ["1", "2"]
    assert tasks.tasks[0].prompt == 'two\nlines, and "quotes"'
    assert tasks.tasks[0].inputs == {"doc": "d1"}
    assert [task.cluster for task in tasks.tasks] == ["d1", "d1"]


@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        (("document",), {"document": "long"}),
        ({"document": "document"}, {"document": "long"}),
        ({"context": "document"}, {"context": "long"}),
        ({"context": "document", "about": "title"}, {"context": "long", "about": "a port"}),
        ({"context": "document", "again": "document"}, {"context": "long", "again": "long"}),
        ({}, {}),
    ],
)
def test_inputs_have_the_names_of_their_columns_or_names_of_their_own(
    tmp_path: Path, inputs: tuple[str, ...] | dict[str, str], given: dict[str, str]
) -> None:
    row = {"id": "a", "prompt": "Say it.", "gold": "yes", "document": "long", "title": "a port"}
    tasks = read_tasks(put(tmp_path, "a.jsonl", json.dumps(row)), Fields(id="id", inputs=inputs))
    assert tasks.tasks[0].inputs == given


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"context": "documnt"}, "no column 'documnt'; did you mean 'document'"),
        ({"context": "gold"}, "'gold' is the gold answer and may be nothing else"),
        (("context",), "no column 'context'"),
    ],
)
def test_a_column_of_an_input_that_is_missing_or_gold_is_refused(
    tmp_path: Path, inputs: tuple[str, ...] | dict[str, str], message: str
) -> None:
    row = {"id": "a", "prompt": "Say it.", "gold": "yes", "document": "long"}
    with pytest.raises(UsageError, match=message):
        read_tasks(put(tmp_path, "a.jsonl", json.dumps(row)), Fields(id="id", inputs=inputs))


def test_an_archive_is_read_file_by_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        for name in ("set/two.json", "set/one.json", "set/README.md"):
            raw = json.dumps({"examples": [{"input": name, "target": "yes"}]}).encode()
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    tasks = read_tasks(tmp_path / "a.tar.xz", Fields(prompt="input", gold="target", cluster="file"))
    assert [task.prompt for task in tasks.tasks] == ["set/one.json", "set/two.json"]
    assert [task.cluster for task in tasks.tasks] == ["one", "two"]


def test_what_an_arm_is_given_holds_no_gold_answer(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "Say it.", "gold": "SECRET", "hint": "none"}]
    tasks = read_tasks(put(tmp_path, "a.jsonl", json.dumps(rows[0])), Fields(id="id", inputs=("hint",)))
    assert "SECRET" not in tasks.tasks[0].model_dump_json()
    assert "SECRET" not in repr(tasks)
    with pytest.raises(UsageError, match="'gold' is the gold answer and may be nothing else"):
        read_tasks(tmp_path / "a.jsonl", Fields(id="id", inputs=("gold",)))


def test_a_prompt_is_made_of_columns_that_are_no_gold(tmp_path: Path) -> None:
    row = {"code": "def f(): {{ 1 }}", "input": "[2]", "output": "[3]", "kinds": ["a"]}
    path = put(tmp_path, "a.jsonl", json.dumps(row))
    made = read_tasks(path, Fields(prompt="Run {{ code }} on {{ input }}.", gold=("output", "kinds")))
    assert made.tasks[0].prompt == "Run def f(): {{ 1 }} on [2]."
    assert made.gold["1"] == {"output": "[3]", "kinds": ["a"]}
    with pytest.raises(UsageError, match="'output' is the gold answer and may be nothing else"):
        read_tasks(path, Fields(prompt="{{ code }} {{ output }}", gold="output"))
    with pytest.raises(UsageError, match="no column 'cod'; did you mean 'code'"):
        read_tasks(path, Fields(prompt="{{ cod }}", gold="output"))


def test_long_contexts_are_made_of_the_documents_of_others(tmp_path: Path) -> None:
    rows = [{"q": f"q{n}", "docs": [{"text": f"<{n}>"}], "a": "x"} for n in range(50)]
    path = put(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    fields = Fields.model_validate(
        {
            "prompt": "{{ q }}:{% for d in documents %} {{ d.text }}{% endfor %}",
            "gold": "a",
            "join": {"column": "docs", "n": 20},
        }
    )
    made = read_tasks(path, fields)
    contexts = [task.prompt.partition(": ")[2].split() for task in made.tasks]
    assert all(len(set(context)) == 20 and f"<{n}>" in context for n, context in enumerate(contexts))
    assert len({context.index(f"<{n}>") for n, context in enumerate(contexts)}) > 10
    assert read_tasks(path, fields) == made


# Splits.


@pytest.fixture
def tasks(tmp_path: Path) -> TaskSet:
    return read_tasks(put(tmp_path, "a.jsonl", LINES))


def test_the_split_is_the_ids_own_and_leaves_nothing_out(tasks: TaskSet) -> None:
    dev, test = tasks.only("dev", dev_share=0.3), tasks.only("test", dev_share=0.3)
    assert {task.id for task in dev.tasks} | {task.id for task in test.tasks} == set(tasks.gold)
    assert not dev.gold.keys() & test.gold.keys()
    assert 40 <= len(dev.tasks) <= 80
    assert tasks.only("all") is tasks
    alone = tasks.tasks[17]
    assert split_of(alone, dev_share=0.3) == ("dev" if alone.id in dev.gold else "test")
    assert tasks.only("dev", dev_share=0.3, seed=1).gold.keys() != dev.gold.keys()


def test_folds_are_even_and_the_same_each_time(tasks: TaskSet) -> None:
    dealt = folds(tasks.tasks, 10)
    assert sorted(dealt.values()) == sorted(list(range(10)) * 20)
    assert dealt == folds(reversed(tasks.tasks), 10)
    assert dealt != folds(tasks.tasks, 10, seed=1)
    with pytest.raises(UsageError, match="1 folds of 200 independent items"):
        folds(tasks.tasks, 1)


def test_a_document_is_never_on_both_sides(tasks: TaskSet) -> None:
    grouped = [task.model_copy(update={"cluster": f"doc{n // 5}"}) for n, task in enumerate(tasks.tasks)]
    for sides in (
        {task.id: split_of(task) for task in grouped},
        folds(grouped, 4),
    ):
        assert all(len({sides[task.id] for task in grouped if task.cluster == f"doc{n}"}) == 1 for n in range(40))


def test_a_sample_is_drawn_by_hash(tasks: TaskSet) -> None:
    drawn = tasks.sample(20)
    assert len(drawn.tasks) == len(drawn.gold) == 20
    assert drawn == tasks.sample(20)
    assert set(drawn.gold) < set(tasks.sample(40).gold)
    assert drawn != tasks.sample(20, seed=1)


# What is wrong with a file.


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", "", "holds no items"),
        ("a.jsonl", '{"prompt": "p", "gold": "g"}\n{"prompt"', "a.jsonl:2: not JSON"),
        ("a.jsonl", "[1]", "a.jsonl:1: list, not an object"),
        ("a.json", "[1]", "expected a list of objects"),
        ("a.csv", "prompt,gold\na,b,c\n", "a.csv:2: 3 values for 2 columns"),
        ("a.csv", "prompt,gold\na\n", "a.csv:2: 1 values for 2 columns"),
        ("a.txt", "x", "a task set is a .csv, .jsonl or .json file"),
        ("a.jsonl", '{"words": "p", "gold": "g"}', "no column for the prompt: prompt, question"),
        ("a.jsonl", '{"prompt": "p", "god": "g"}', "no column for the gold answer: gold, answer"),
        ("a.jsonl", '{"prompt": "p", "gold": ""}', "no gold answer ('gold') in item 1"),
        ("a.jsonl", '{"prompt": "p", "gold": "1"}\n' * 2 + '{"prompt": "p"}\n' * 7, "3, 4, 5, 6, 7 and 2 more"),
        ("a.jsonl", '{"prompt": " ", "gold": 1}', "no prompt ('prompt') in item 1"),
        ("a.jsonl", '{"id": "x", "prompt": "p", "gold": 1}\n' * 2, "duplicate ids: 'x'"),
        ("a.jsonl", '{"id": "x", "prompt": "p", "gold": 1}\n{"prompt": "p", "gold": 1}', "no id ('id') in item 2"),
        ("a.jsonl.xz", "", "holds no items"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_with_its_place(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read_tasks(put(tmp_path, name, text))
    assert words in str(caught.value)


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"id": "x", "prompt": "p", "gold": ""}\n' * 2)
    with pytest.raises(UsageError) as caught:
        read_tasks(path, Fields(id="id", cluster="docc", inputs=("extra",)))
    said = str(caught.value)
    assert all(
        words in said for words in ("no column 'docc'", "no column 'extra'", "no gold answer", "duplicate ids")
    )


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.xz", "a.tar.xz", "a.jsonl"])
def test_bytes_that_are_not_what_the_name_says_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00garbage")
    with pytest.raises(UsageError, match="cannot read the task set"):
        read_tasks(tmp_path / name)


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_tasks(tmp_path / "none.jsonl")


def test_a_small_file_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.xz"
    with lzma.open(path, "wb", preset=0) as file:
        for _ in range(201):
            file.write(b" " * 1_000_000)
    with pytest.raises(UsageError, match="more than 200,000,000 bytes"):
        read_tasks(path)


# Sides that the author gives.

SIDES = "".join(
    json.dumps({"id": n, "q": f"{n}?", "answer": n, "part": "dev" if n < 6 else "test"}) + "\n" for n in range(10)
)


def test_a_column_gives_the_side_of_each_item(tmp_path: Path) -> None:
    found = read_tasks(put(tmp_path, "a.jsonl", SIDES), Fields(prompt="q"), side="part")
    assert [task.id for task in found.only("dev", dev_share=0.01, seed=7).tasks] == [str(n) for n in range(6)]
    assert [task.id for task in found.only("test").tasks] == [str(n) for n in range(6, 10)]
    assert {split_of(task) for task in found.tasks[:6]} == {"dev"}


@pytest.mark.parametrize(
    ("change", "side", "words"),
    [
        (("", ""), "prt", "no column 'prt' for the side of the split; did you mean 'part'?"),
        (('"dev"', '"train"'), "part", "('part') is dev or test, and is 'train' in items 1, 2, 3, 4, 5 and 1 more"),
        (('"test"', '"Test"'), "part", "is 'Test' in items 7, 8, 9, 10"),
        (('"part": "dev"', '"part": null'), "part", "is None in items 1, 2"),
        (('"answer": 5, "part": "dev"', '"answer": 5'), "part", "is None in item 6"),
        (('"q": "0?"', '"q": "9?"'), "q", "is dev or test, and is '9?' in items 1, 2"),
    ],
)
def test_a_side_that_is_neither_dev_nor_test_is_told(
    change: tuple[str, str], side: str, words: str, tmp_path: Path
) -> None:
    path = put(tmp_path, "a.jsonl", SIDES.replace(*change) if change[0] else SIDES)
    with pytest.raises(UsageError) as caught:
        read_tasks(path, Fields(prompt="q", id="id"), side=side)
    assert words in str(caught.value)


def test_a_group_on_both_sides_is_told(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", SIDES.replace('"q"', '"doc": "d1", "q"'))
    with pytest.raises(UsageError, match="the group d1 of 'doc' is on both sides of the split"):
        read_tasks(path, Fields(prompt="q", cluster="doc"), side="part")


def test_a_confirming_file_is_the_test_side_and_keeps_its_ids_apart(tmp_path: Path) -> None:
    ours = read_tasks(put(tmp_path, "a.csv", "prompt,gold\n1?,1\n2?,2\n"))
    theirs = read_tasks(put(tmp_path, "b.csv", "prompt,gold\n3?,3\n"))
    both = ours.with_test_items(theirs, file="b.csv")
    assert [(task.id, split_of(task)) for task in both.tasks] == [("1", "dev"), ("2", "dev"), ("b.csv/1", "test")]
    assert both.gold == {"1": "1", "2": "2", "b.csv/1": "3"}
    assert both.sha256 not in (ours.sha256, theirs.sha256)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("prompt,gold,doc\n2?,2,z\n", "b.csv: the item 1 is among the items to choose by too"),
        ("prompt,gold,doc\n2?,9,z\n1?,1,z\n4?,4,z\n", "the items 1, 2 are among"),
        ("prompt,gold,doc\n7?,7,y\n", "the group y is among the items to choose by too"),
    ],
)
def test_what_is_in_both_files_is_refused(other: str, words: str, tmp_path: Path) -> None:
    fields = Fields(cluster="doc")
    ours = read_tasks(put(tmp_path, "a.csv", "prompt,gold,doc\n1?,1,x\n2?,2,y\n"), fields)
    with pytest.raises(UsageError, match=words):
        ours.with_test_items(read_tasks(put(tmp_path, "b.csv", other), fields), file="b.csv")
