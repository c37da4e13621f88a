"""Rows: the mappings of a table, read from CSV, JSONL or JSON and written as CSV or JSONL."""

from fusion.pipeline.rows.cells import cell as cell
from fusion.pipeline.rows.cells import csv_line as csv_line
from fusion.pipeline.rows.cells import json_line as json_line
from fusion.pipeline.rows.parsing import Row as Row
from fusion.pipeline.rows.parsing import RowFormat as RowFormat
from fusion.pipeline.rows.reading import read_rows as read_rows
from fusion.pipeline.rows.reading import rows_of as rows_of
from fusion.pipeline.rows.table import Table as Table
from fusion.pipeline.rows.table import is_table as is_table
