"""The changelog: outcomes by area under Added, Changed and Fixed, short, each said once, up to this version."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

import fusion

TEXT = (Path(__file__).parents[1] / "CHANGELOG.md").read_text()
SECTIONS = ["Added", "Changed", "Fixed"]
WORDS = 25
_FIRST = "\n## "


class Entry(NamedTuple):
    """An entry, with the version and the section that it is under."""

    version: str
    section: str
    text: str


def entries(text: str) -> list[Entry]:
    """The entries of a changelog; refuses a line that is neither heading, entry, nor its continuation."""
    found: list[Entry] = []
    version = section = ""
    for line in f"## {text.partition(_FIRST)[2]}".splitlines():
        if line.startswith("## "):
            version, section = line.removeprefix("## "), ""
        elif line.startswith("### "):
            section = line.removeprefix("### ")
        elif line.startswith("- "):
            found.append(Entry(version, section, line.removeprefix("- ")))
        elif line.startswith("  "):
            found[-1] = found[-1]._replace(text=f"{found[-1].text} {line.strip()}")
        else:
            assert line == "", f"neither heading nor entry: {line}"
    return found


def faults(text: str) -> list[str]:
    """The rules that a changelog breaks."""
    found = entries(text)
    times = Counter(entry.text.lower().rstrip(".") for entry in found)
    headings = re.findall(r"^### (.+)$", text, re.MULTILINE)
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    return [
        *(f"unknown section: {heading}" for heading in headings if heading not in SECTIONS),
        *(f"not `X.Y.Z (YYYY-MM-DD)`: {one}" for one in versions if not re.fullmatch(r"[\d.]+ \([\d-]{10}\)", one)),
        *(f"without a section: {entry.text}" for entry in found if not entry.section),
        *(f"without `Area:`: {entry.text}" for entry in found if not re.match(r"[A-Z][\w-]*: \S", entry.text)),
        *(f"over {WORDS} words: {entry.text}" for entry in found if len(entry.text.split()) > WORDS),
        *(f"said {count} times: {one}" for one, count in times.items() if count > 1),
    ]


def test_the_changelog_keeps_its_rules() -> None:
    assert faults(TEXT) == []


def test_the_newest_version_is_this_one() -> None:
    assert entries(TEXT)[0].version.split()[0] == fusion.__version__


def test_versions_fall_and_each_has_its_sections_once_in_order() -> None:
    versions = [tuple(map(int, one.split("."))) for one in re.findall(r"^## ([\d.]+)", TEXT, re.MULTILINE)]
    assert versions == sorted(set(versions), reverse=True)
    for part in TEXT.split("\n## ")[1:]:
        given = re.findall(r"^### (.+)$", part, re.MULTILINE)
        assert given == [section for section in SECTIONS if section in given]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("### Added\n\n- Store: one.\n- Store: One\n", "said 2 times: store: one"),
        ("### Added\n\n- Store: " + "word " * 25 + "\n", "over 25 words"),
        ("### Added\n\n- Store: " + "word " * 13 + "\n  " + "word " * 13 + "\n", "over 25 words"),
        ("### Added\n\n- the store is faster\n", "without `Area:`"),
        ("### Improved\n\n- Store: one.\n", "unknown section: Improved"),
        ("- Store: one.\n", "without a section"),
    ],
)
def test_a_broken_rule_is_named(body: str, fault: str) -> None:
    assert any(one.startswith(fault) for one in faults(f"# Changelog\n\n## 1.0.0 (2026-01-01)\n\n{body}"))


def test_an_unreleased_part_is_refused() -> None:
    assert faults("# Changelog\n\n## Unreleased\n") == ["not `X.Y.Z (YYYY-MM-DD)`: Unreleased"]
