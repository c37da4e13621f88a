"""Rows of a map for outputs of every form."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from fusion.bulk.outputs import OutputRow, open_output
from fusion.pipeline.rows import rows_of

FORMS = ["jsonl", "ndjson", "csv", "tsv", "parquet"]
LINES = ["jsonl", "csv", "tsv"]
KEYS = [
    "a",
    "b,c",
    'd"e',
    "f\ng",
    "h\r\ni",
    "\tj",
    "ü 日本 \u2028",
    "=1+1",
    "'=1",
    "''x",
    "'",
    "",
    " g ",
    '"',
    "-1",
    "key",
]


def row(key: str, text: str = "an answer", **more: Any) -> OutputRow:
    return OutputRow(key, "ok", text, usd=Decimal("0.0012"), run_id=f"m-{len(key)}", **more)


def keys(path: Path, **options: Any) -> list[str]:
    output = open_output(path, **options)
    found = [one.key for one in output.present()]
    output.close()
    return found


def written(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, as a user's program reads them."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    text = path.read_bytes().decode()
    if path.suffix in (".csv", ".tsv"):
        return rows_of(text if path.suffix == ".csv" else f"sep=\t\n{text}", "csv", where=str(path))
    return [json.loads(line) for line in text.split("\n")[:-1]]
