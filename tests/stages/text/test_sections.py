"""Sections of the material: the cut, the outline, and the parts that are shown."""

import re
from typing import Any

import pytest

from fusion.core.types import File
from fusion.models.base import estimate_tokens
from fusion.stages.text.ranking import ranked
from fusion.stages.text.sections import Document, Sections, cut, ranges

WORDS = "The warden counts the tolls of the bridge and writes them into the ledger of the town. "


def text_of(headings: list[str], words: int = 40) -> str:
    return "\n\n".join(f"## {heading}\n\n{WORDS * (words // 16)}" for heading in headings)


def sections(text: str) -> Sections:
    return cut([Document("context", text)])


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        (text_of(["Oslo", "Rome", "Bern"]), ["Oslo", "Rome", "Bern"]),
        ("Before all.\n\n" + text_of(["Oslo", "Rome", "Bern"]), ["", "Oslo", "Rome", "Bern"]),
        ("A\n=\n\nfirst.\n\nB\n=\n\nsecond.\n\nC\n=\n\nthird.\n", ["A", "B", "C"]),
        (text_of(["Oslo", "Rome"], 160), ["Oslo … Rome"]),  # two headings are too few
    ],
)
def test_headings_make_sections_and_nothing_is_lost(text: str, titles: list[str]) -> None:
    found = sections(text)
    assert [one.title for one in found.all][: len(titles)] == titles
    assert "".join(one.text for one in found.all) == text
    assert [one.number for one in found.all] == list(range(1, len(found) + 1))


def test_paragraphs_are_packed_to_600_tokens_and_longer_ones_stay_whole_to_1500() -> None:
    short = "\n\n".join(WORDS * 4 for _ in range(30))
    sizes = [one.tokens for one in sections(short).all]
    assert max(sizes) <= 600
    assert min(sizes[:-1]) > 400
    (long,) = sections(WORDS.strip() * 50).all
    assert 600 < long.tokens <= 1500
    assert max(one.tokens for one in sections(WORDS * 500).all) <= 1500


@pytest.mark.parametrize("headings", [400, 1000, 5000])
def test_there_are_at_most_300_sections(headings: int) -> None:
    text = text_of([f"Town {number}" for number in range(headings)])
    found = sections(text)
    assert 100 < len(found) <= 300
    assert "".join(one.text for one in found.all) == text


def test_numbers_go_over_all_documents_and_a_file_is_one_section() -> None:
    picture = File(media_type="image/png", data=b"\x89PNG\r\n\x1a\n", name="map.png")
    found = cut([Document("one", text_of(["A", "B", "C"])), Document("two", "short"), Document("map", picture)])
    assert [(one.number, one.document, one.title) for one in found.all] == [
        (1, "one", "A"),
        (2, "one", "B"),
        (3, "one", "C"),
        (4, "two", ""),
        (5, "map", "map.png"),
    ]
    shown = found.shown([5, 2])
    assert shown.files == (picture,)
    assert "## B" in shown
    assert "## A" not in shown
    assert "2 of one" in shown


@pytest.mark.parametrize(
    ("text", "pay"),
    [
        (text_of(["A", "B", "C"], 16), False),  # under 800 tokens
        (text_of(["A", "B", "C"], 400), True),
        (WORDS * 50, False),  # one section
        ("", False),
    ],
)
def test_short_material_is_read_whole_by_its_counts_alone(text: str, pay: bool) -> None:
    assert sections(text).pay is pay


@pytest.mark.parametrize("count", [3, 60, 300])
@pytest.mark.parametrize(
    "heading", ["Town {}", "Town of a very long name in the far north of the country, part {}", "same"]
)
def test_an_outline_has_every_number_within_its_limit(count: int, heading: str) -> None:
    found = sections(text_of([heading.format(number) for number in range(count)], 400))
    outline = found.outline()
    lines = re.findall(r"^(\d+) ?(.*?)\((\d+) tokens\)(.*)$", outline, re.MULTILINE)
    assert [int(number) for number, *_ in lines] == list(range(1, len(found) + 1))
    assert estimate_tokens("\n".join("".join(line) for line in lines)) <= max(1500, found.tokens * 6 // 100)
    assert outline.sections == len(found)
    if heading == "Town {}" and count == 60:
        assert "\n3 Town 2 (" in outline
        assert "warden" not in outline  # its headings tell the sections apart
    if heading == "same" and count == 3:
        assert "The warden counts the tolls" in outline


def test_a_heading_in_a_needed_value_names_its_section() -> None:
    found = sections(text_of(["Oslo", "Rome", "Bern", "North Quay"]))
    assert found.named_in(["The highest is Rome."]) == [2]
    assert found.named_in(["north quay, then Oslo"]) == [1, 4]
    assert found.named_in(["Romeo and Bernard"]) == []


def test_a_search_gives_the_best_unseen_sections() -> None:
    texts = [f"## Town {number}\n\n{WORDS * 3}" for number in range(10)]
    texts[6] += "The ferry to Lindvik costs 12 crowns."
    found = sections("\n\n".join(texts))
    assert found.found("price of the ferry to Lindvik", seen=[1], count=1) == [7]
    assert 7 not in found.found("price of the ferry to Lindvik", seen=[7], count=3)


@pytest.mark.parametrize(
    ("query", "best"),
    [("鹿特丹 港口", 1), ("ΑΘΉΝΑ", 2), ("nothing at all", 0), ("", 0), ("fees fees fees", 3)],
)
def test_texts_of_any_script_are_ranked(query: str, best: int) -> None:
    texts = ["a b c", "荷兰的鹿特丹有港口。", "η αθήνα είναι πόλη", "the fees"]
    assert ranked(query, texts)[0] == best


@pytest.mark.parametrize(
    ("numbers", "words"), [([1], "1"), ([3, 1, 2], "1 to 3"), ([1, 3, 4, 9], "1, 3 to 4, 9"), ([], "")]
)
def test_numbers_are_said_as_ranges(numbers: list[int], words: Any) -> None:
    assert ranges(numbers) == words
