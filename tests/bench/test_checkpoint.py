"""A benchmark that is killed goes on: no answer is asked for twice, and the figures are the same to the digit."""

import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion.bench import Report, Results
from fusion.core.errors import UsageError
from tests.bench.conftest import CHEAP, knowing, model, write_sums
from tests.bench.dying import main
from tests.processes import exit_code

IN_FLIGHT = 2
CALLS = 20 + 20 + 20 + 4
"""Both models alone, and the pipeline, which asks the strong one four times."""


def dying(folder: Path, calls: int = 0) -> int | None:
    return exit_code(main, folder, calls)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of a benchmark that nothing ends early."""
    folder = tmp_path_factory.mktemp("whole")
    write_sums(folder / "sums.jsonl", 20)
    assert dying(folder) == 0
    return Results.load(folder / "out" / "results.json")


@pytest.mark.parametrize("calls", [1, 17, 38, 63])
def test_killed_and_started_again_it_repeats_no_answer(
    items: Callable[..., Path], whole: Results, calls: int, tmp_path: Path
) -> None:
    items(20)
    assert dying(tmp_path, calls) == -signal.SIGKILL
    assert dying(tmp_path) == 0
    counts = Counter((tmp_path / "calls").read_text().splitlines())
    assert len(counts) == CALLS
    assert sum(counts.values()) <= CALLS + IN_FLIGHT
    found = Results.load(tmp_path / "out" / "results.json")
    assert found.paid is not None
    made = sum(counts.values())
    assert made <= found.paid.calls <= made + IN_FLIGHT  # what was about to be made counts in full
    assert [plain(one) for one in found.outcomes] == [plain(one) for one in whole.outcomes]
    shown = [Report(one).markdown() for one in (found, whole)]
    assert differences(*shown) <= {"Started", "Paid"}
    assert whole.paid is not None
    assert whole.paid.calls == CALLS


def plain(outcome: Any) -> dict[str, Any]:
    return outcome.model_dump(exclude={"latency", "times", "reused"})


def differences(one: str, other: str) -> set[str]:
    """The first word of each line that differs, but for seconds and what is said of them."""
    texts = [[line for line in text.splitlines() if "The latency of" not in line] for text in (one, other)]
    lines = zip(*texts, strict=True)
    return {first.split()[0] for first, second in lines if cut(first) != cut(second)}


def cut(line: str) -> str:
    return " | ".join(cell for cell in line.split(" | ") if not cell.rstrip(" |").endswith(" s"))


def test_a_line_that_was_torn_is_asked_again(items: Callable[..., Path], bench: Any, tmp_path: Path) -> None:
    items(5)
    arms = {"a": {"model": CHEAP}}
    first = bench([model(CHEAP, knowing(lambda total: False))], arms=arms)
    file = tmp_path / "out" / "answers.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    asked = model(CHEAP, knowing(lambda total: False))
    again = bench([asked], arms=arms)
    assert len(asked.requests) == 1
    assert [one.text for one in again.results.outcomes] == [one.text for one in first.results.outcomes]
    assert file.read_bytes().count(b"\n") == 5


def test_what_is_changed_is_asked_again_and_nothing_else(
    items: Callable[..., Path], bench: Any, tmp_path: Path
) -> None:
    items(5)
    arms = {"a": {"model": CHEAP}}
    bench([model(CHEAP, knowing(lambda total: False))], arms=arms)
    rows = [json.loads(line) for line in (tmp_path / "sums.jsonl").read_text().splitlines()]
    rows[2]["prompt"] = "What is 9+9?"
    rows[3]["gold"] = "7"
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = model(CHEAP, knowing(lambda total: False))
    report = bench([asked], arms=arms, scorer="exact")
    assert [request.messages[-1].content.strip() for request in asked.requests] == ["What is 9+9?"]
    assert len(report.results.outcomes) == 5
    pipeline = tmp_path / "two.yaml"
    roles = {"bulk": CHEAP, "frontier": CHEAP}
    bench([asked], arms={"p": {"pipeline": "two.yaml", "roles": roles}})
    pipeline.write_text(pipeline.read_text().replace("max_tokens: 100", "max_tokens: 101"))
    before = len(asked.requests)
    bench([asked], arms={"p": {"pipeline": "two.yaml", "roles": roles}})
    assert len(asked.requests) == before + 5


def test_two_at_once_in_one_folder_is_refused(items: Callable[..., Path], bench: Any, tmp_path: Path) -> None:
    items(3)
    arms = {"a": {"model": CHEAP}}

    def watch(progress: Any) -> None:
        with pytest.raises(UsageError, match="another benchmark is writing to"):
            bench([], arms=arms)

    bench([model(CHEAP, knowing(lambda total: False))], arms=arms, options={"watch": watch})
    assert (tmp_path / "out" / "answers.jsonl").read_bytes().count(b"\n") == 3


def test_a_file_that_holds_no_answers_is_told(items: Callable[..., Path], bench: Any, tmp_path: Path) -> None:
    items(3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "answers.jsonl").write_text('{"key": 3}\n')
    with pytest.raises(UsageError, match=r"answers\.jsonl:1: this line is not an answer of a benchmark"):
        bench([], arms={"a": {"model": CHEAP}})
