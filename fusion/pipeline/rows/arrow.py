"""Arrow: the library that reads and writes Parquet, an optional one."""

from typing import Any

from fusion.core.errors import UsageError


def parquet() -> Any:
    """Return pyarrow's module of Parquet. Raises UsageError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed: run `pip install 'compound-fusion[parquet]'`"
        ) from error
    return pyarrow.parquet
