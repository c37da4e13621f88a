"""split: chunks that make up the text, know their place, and hold whatever the document is made of."""

import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion import ScriptedModel
from fusion.models.base import ModelInfo, estimate_input, estimate_tokens
from fusion.stages.text.chunks import Cutting, chunks
from tests.conftest import pipeline, run, said

SPLIT = """
inputs: {document: text}
stages:
  parts: {kind: split, text: inputs.document%s}
output: parts
"""
BOOK = """Before all headings.

# Bread
Flour and water.

## Rye
Dark.

```sh
# no heading
## none either
```

Wheat
-----
Light.

# Butter #

## Salted

From the coast.
"""


def split(text: str, by: str = "paragraphs", size: int = 1500, **more: Any) -> list[dict[str, Any]]:
    return chunks(text, Cutting(by=by, size=size, **more))  # type: ignore[arg-type]


PIECES = st.sampled_from(
    [
        "word ",
        "\n",
        "\r\n",
        "\n\n",
        "# H\n",
        "## H\n",
        "```\n",
        "~~~~\n",
        "===\n",
        "---\n",
        "é",
        "漢",
        "😀",
        "x" * 70,
        " ",
        "\r",
    ]
)
DOCUMENTS = st.lists(PIECES | st.text(max_size=20), max_size=60).map("".join)
CUTTINGS = st.builds(
    Cutting,
    by=st.sampled_from(["tokens", "paragraphs", "headings", "separator"]),
    size=st.integers(16, 60),
    overlap=st.integers(0, 8),
    pack=st.booleans(),
    separator=st.sampled_from(["\n", "---\n", "x"]),
    around=st.integers(0, 10),
)


@settings(max_examples=400, deadline=None)
@given(document=DOCUMENTS, cutting=CUTTINGS)
def test_chunks_make_up_the_text_and_none_is_too_long(document: str, cutting: Cutting) -> None:
    found = chunks(document, cutting)
    assert "".join(chunk["text"][chunk["overlap"] :] for chunk in found) == document
    at = 0
    for chunk in found:
        assert document[chunk["start"] : chunk["end"]] == chunk["text"]
        assert chunk["start"] + chunk["overlap"] == at < chunk["end"]
        at = chunk["end"]
        assert chunk["tokens"] == estimate_tokens(chunk["text"]) <= cutting.size
        assert estimate_tokens(chunk["before"]) <= cutting.around >= estimate_tokens(chunk["after"])
        assert document[: chunk["start"]].endswith(chunk["before"])
        assert document[chunk["end"] :].startswith(chunk["after"])
    assert chunks(document, cutting) == found


def test_sections_know_the_headings_they_stand_under_and_code_is_no_heading() -> None:
    found = split(BOOK, "headings")
    assert [chunk["headings"] for chunk in found] == [
        [],
        ["Bread"],
        ["Bread", "Rye"],
        ["Bread", "Wheat"],
        ["Butter", "Salted"],
    ]
    assert "# no heading" in found[2]["text"]
    assert found[2]["title"] == "Bread > Rye"
    assert found[4]["text"].startswith("# Butter #\n\n## Salted")


@pytest.mark.parametrize(
    ("text", "headings"),
    [
        ("````\n```\n# a\n```\n# b\n````\n# c\nx", [[], ["c"]]),
        ("~~~\n```\n# a\n~~~\n# b\nx", [[], ["b"]]),
        ("```\n# never closed\n\n# nor this", [[]]),
        ("    # indented code\n#no space\n####### seven\n", [[]]),
        ("# a\r\n\r\nx\r\n# b\r\ny", [["a"], ["b"]]),
        ("---\ntitle: front matter\n---\n\ntext", [[]]),
        ("two lines\nof text\n---\nmore", [[]]),
        ("Title\n===\nx\n\nSub\n---\ny", [["Title"], ["Title", "Sub"]]),
        ("# a\nx\n### deep\ny\n## b\nz", [["a"], ["a", "deep"], ["a", "b"]]),
        ("# a\n\n# b\n\n# c\nx", [["a"], ["b"], ["c"]]),
        ("# a\n## b\n## c\nx\n# d", [["a", "b"], ["a", "c"], ["d"]]),
        ("# a\n## b\n### c\nx\n## d\ny", [["a", "b", "c"], ["a", "d"]]),
        ("## a\n# b\n## c\nx", [["a"], ["b", "c"]]),
        ("before\n\n# a\n\n\n## b\n\nx", [[], ["a", "b"]]),
        ("text\nTitle\n=====\nx\n\nSub\n---\n\nOther\n---\n", [[], ["Title"], ["Title", "Sub"], ["Title", "Other"]]),
        ("# a\nx\n\n| b | c |\n|---|---|\n| 1 | 2 |\n\npara\nmore\n---\ny", [["a"]]),
    ],
)
def test_what_is_a_heading(text: str, headings: list[list[str]]) -> None:
    assert [chunk["headings"] for chunk in split(text, "headings")] == headings


def test_paragraphs_are_chunks_and_packed_ones_fill_them() -> None:
    text = "\n\n".join(f"Paragraph {n} " + "word " * 20 for n in range(10))
    assert len(split(text)) == 10
    packed = split(text, size=100, pack=True)
    assert [chunk["text"].count("Paragraph") for chunk in packed] == [3, 3, 3, 1]


def test_a_separator_ends_a_part_and_parts_without_words_are_none() -> None:
    found = split("a\n---\n---\nb\n---\n", "separator", separator="---\n")
    assert [chunk["text"] for chunk in found] == ["a\n---\n---\n", "b\n---\n"]


def test_it_cuts_between_words_and_sentences_where_it_can() -> None:
    text = "One sentence stands here. " * 40
    for chunk in split(text, "tokens", 50)[:-1]:
        assert chunk["text"].endswith(". ")
    assert all(chunk["text"][-1] == " " for chunk in split("word " * 500, "tokens", 50))


def test_overlap_repeats_words_of_the_chunk_before() -> None:
    found = split("".join(f"word{n} " for n in range(300)), "tokens", 50, overlap=10)
    for one, other in pairwise(found):
        repeated = other["text"][: other["overlap"]]
        assert one["text"].endswith(repeated)
        assert 20 < len(repeated) <= 40
        assert repeated.startswith("word")


@pytest.mark.parametrize(
    "document",
    [
        "x" * 10_000_000,
        "\n" * 2_000_000,
        "\r\n" * 1_000_000,
        "# h\n" * 500_000,
        "```\n" * 500_000,
        "漢" * 1_000_000,
        "# " + " " * 1_000_000 + "#",
        "A line of text that is as long as lines are.\n\n" * 200_000,
    ],
    ids=["one-line", "newlines", "crlf", "headings", "fences", "wide", "blank-title", "text"],
)
def test_megabytes_take_seconds_whatever_they_are_made_of(document: str) -> None:
    began = time.process_time()
    found = split(document, "headings", 2000, around=100, overlap=100, pack=True)
    assert time.process_time() - began < 10
    assert sum(len(chunk["text"]) - chunk["overlap"] for chunk in found) == len(document)


def test_a_template_reads_a_chunk_and_its_place(fusion: Any) -> None:
    text = SPLIT.replace("output: parts", "output: read") % ", by: headings, around: 5"
    prompt = (
        "'{{ item.title }} ({{ item.number }} of {{ item.count }}): <{{ item.before }}|{{ item }}|{{ item.after }}>'"
    )
    text = text.replace("output:", f"  read: {{kind: map, over: parts, prompt: {prompt}}}\noutput:")
    result, _ = run(fusion({"bulk": lambda request: said(request)}), "# A\nalpha\n# B\nbeta", pipeline=pipeline(text))
    assert result.data == ["A (1 of 2): <|# A\nalpha\n|# B\nbeta>", "B (2 of 2): <# A\nalpha\n|# B\nbeta|>"]


def test_a_chunk_fits_into_the_context_of_its_reader(fusion: Any) -> None:
    text = SPLIT.replace("output: parts", "output: read") % ", by: tokens, size: 5000, overlap: 1000"
    text = text.replace("output:", "  read: {kind: map, over: parts, prompt: '{{ item }}', max_tokens: 500}\noutput:")
    info = ModelInfo(id="scripted/bulk", provider="scripted", context=2000)
    bulk = ScriptedModel("read", info=info)
    result, _ = run(fusion({"bulk": bulk}), "Words of a document. " * 2000, pipeline=pipeline(text))
    assert result.status == "ok"
    assert max(estimate_input(request.messages) for request in bulk.requests) <= 750
    assert any("chunks have at most 750 tokens, not 5,000" in note for note in result.notes)


def test_nothing_to_split_is_said(fusion: Any) -> None:
    for document in ("", " \n\n ", "\n" * 100_000):
        result, _ = run(fusion(), document, pipeline=pipeline(SPLIT % ""))
        assert result.error.message == "`text: inputs.document` is empty; give a text to split"
    result, _ = run(fusion(), None, pipeline=pipeline(SPLIT % ""), inputs={"document": [1]})
    assert "is list, not a text" in result.error.message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (", by: separator", "go together"),
        (", separator: x", "go together"),
        (", by: tokens, pack: true", "`pack` has no effect"),
        (", size: 100, overlap: 60", "more than half"),
        (", size: 1", "at least 16"),
        (", by: pages", "expected 'tokens', 'paragraphs', 'headings' or 'separator'"),
    ],
)
def test_what_has_no_effect_is_a_mistake(options: str, says: str) -> None:
    with pytest.raises(Exception, match=says):
        pipeline(SPLIT % options)
