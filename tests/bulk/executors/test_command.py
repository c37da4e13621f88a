"""`fusion map --on workers` beside a process of `fusion worker`: what it prints and writes, and how it goes on."""

import json
import re
import shlex
import signal
import threading
from typing import Any

import pytest

from tests.bulk.executors.site import MODEL, Ran, Site, command
from tests.provider import Answer

pytestmark = pytest.mark.needs("initdb")
TEXTS = [f"row {number}" for number in range(1, 9)]


@pytest.fixture
def words(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a map over these rows, in the folder of the site."""
    monkeypatch.chdir(site.folder)
    site.rows(*TEXTS)
    places = ["--store", site.database, "-o", "out.jsonl"]
    return ["map", "two.yaml", "rows.jsonl", "--key", "text", "--on", "workers", "-m", MODEL, *places]


def ended(site: Site, name: str, words: list[str]) -> tuple[int | None, str]:
    """Run a command in a process of its own; its exit code and what it printed."""
    ran = site.run(name, command, words)
    return ran.end(), ran.output


def lines_of(site: Site) -> dict[str, dict[str, Any]]:
    return {line["key"]: line for line in map(json.loads, (site.folder / "out.jsonl").read_text().splitlines())}


def way_on(output: str, label: str) -> list[str]:
    """The words of the command that the last lines name."""
    found = re.search(rf"^{label}: fusion (.*)$", output, re.MULTILINE)
    assert found is not None, output
    return shlex.split(found[1])


def test_an_interrupted_map_goes_on_by_the_same_command(site: Site, words: list[str]) -> None:
    going = threading.Event()

    def answer(text: str, key: str) -> Answer:
        second = [one for one in site.asked if one.startswith("ANSWER")]
        return Answer(text.lower(), until=going if len(second) > 2 and text.startswith("ANSWER") else None)

    site.on_call = answer
    site.worker("a", "--concurrency", "2").wait_for("serving")
    first = site.run("first", command, words)
    progress = r"^2 rows done \(25%\), \d+\.\d rows/s, \$0\.00\d\d, about "
    site.wait_until(lambda: re.search(progress, first.output, re.MULTILINE) is not None, "line of the progress")
    first.signal(signal.SIGINT)
    assert first.end() == 130, first
    _check_first(first)
    assert len(lines_of(site)) == 2
    going.set()
    again = way_on(first.output, "to go on")
    assert [one for one in again if one in words] == words
    code, output = ended(site, "again", again)
    assert code == 0, output
    assert re.search(r"^8 rows: 8 ok, 2 of them before; \$0\.00\d\d; \d", output, re.MULTILINE)
    assert {key: line["answer"] for key, line in lines_of(site).items()} == {
        text: f"answer read {text}" for text in TEXTS
    }
    assert {site.asked[f"READ {text}"] for text in TEXTS} == {1}
    assert site.keys == {"a"}


def _check_first(first: Ran) -> None:
    lines = first.output.splitlines()
    assert re.match(r"two: map two-\w{8}; profile \w+; bulk=openai/gpt-4o-mini; rows from rows\.jsonl, ", lines[0])
    assert any("interrupted; stopping the rows in flight" in line for line in lines)
    assert re.match(r"kept: fusion runs show two-\w{8} --store ", lines[-1])


def test_failed_rows_are_asked_again_by_the_command_that_is_named(site: Site, words: list[str]) -> None:
    refused = {"READ row 3"}
    site.on_call = lambda text, key: Answer("no", status=400) if text in refused else Answer(text.lower())
    site.worker("a").wait_for("serving")
    code, output = ended(site, "first", words)
    assert code == 3, output
    assert re.search(r"^8 rows: 7 ok, 1 failed; .*\$0\.00\d\d", output, re.MULTILINE), output
    assert lines_of(site)["row 3"]["answer"] is None
    refused.clear()
    code, output = ended(site, "again", way_on(output, "to ask the failed rows again"))
    assert code == 0, output
    assert re.search(r"^8 rows: 8 ok, 7 of them before; ", output, re.MULTILINE)
    assert lines_of(site)["row 3"]["answer"] == "answer read row 3"


def test_json_is_the_report_of_the_map(site: Site, words: list[str]) -> None:
    site.worker("a").wait_for("serving")
    code, output = ended(site, "map", [*words, "--json", "-q"])
    assert code == 0, output
    report = json.loads(output)
    assert (report["status"], report["ok"], report["failed"]) == ("ok", 8, 0)
    assert float(report["cost"]["usd"]) > 0
