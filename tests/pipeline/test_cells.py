"""Cells and lines of CSV: quoting, formulas, and values that are no text."""

import csv
import io
import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from fusion.pipeline.rows import cell, csv_line, json_line, rows_of


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3+cmd",
        "@SUM(A1:A9)",
        "\t=1",
        "\rx",
        " =HYPERLINK(1)",
        "\n=1",
        "＝1+1",
        "- a list",
        "+49 30 1234",
        "-",
    ],
)
def test_a_text_that_may_be_a_formula_gets_an_apostrophe(text: str) -> None:
    assert cell(text) == "'" + text
    assert cell(text, guard=False) == text


@pytest.mark.parametrize(
    "text", ["-12", "+3.5", "-1,180.50", "-.5", "1e-9", "-2.5E+3", "-12%", "a=b", "", "'=1", "1-2", "x@y.no"]
)
def test_numbers_and_harmless_texts_stay(text: str) -> None:
    assert cell(text) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (-3, "-3"),
        (0.1, "0.1"),
        (Decimal("-4.20"), "-4.20"),
        (date(2026, 3, 1), "2026-03-01"),
        (["ä", 1], '["ä", 1]'),
        ({"a": [None]}, '{"a": [null]}'),
        ((), "[]"),
        ("\ud800", "�"),
    ],
)
def test_other_values_have_one_text(value: Any, text: str) -> None:
    assert cell(value) == text


@pytest.mark.parametrize(
    "cells",
    [
        ["a", "b"],
        [""],
        ["", ""],
        ['say "no"', "one,two", "line\nbreak", "carriage\rreturn", "both\r\n"],
        [" spaces ", "héllo", "日本語", "🙂", ";", "\u2028", "\x0b"],
        ["'", '"', '""', ",", "\n"],
    ],
)
def test_a_line_reads_back_as_its_cells(cells: list[str]) -> None:
    line = csv_line(cells)
    assert list(csv.reader(io.StringIO(line, newline=""), strict=True)) == [cells]
    assert line.endswith("\n")
    assert not line.endswith("\r\n")


def test_a_table_written_is_read_as_the_same_rows() -> None:
    rows = [{"id": "1", "text": 'a,"b"\nc'}, {"id": "2", "text": ""}]
    text = csv_line(["id", "text"]) + "".join(csv_line(row.values()) for row in rows)
    assert rows_of(text, "csv", where="x.csv") == rows
    lines = "".join(json_line(row) for row in rows)
    assert rows_of(lines, "jsonl", where="x.jsonl") == rows
    assert json.loads(json_line({"n": ["é", None]})) == {"n": ["é", None]}
