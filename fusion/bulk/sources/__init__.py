"""Sources: INPUTS of a map as rows, one at a time, from tables, folders, streams and Python."""

from fusion.bulk.sources.base import RowSource as RowSource
from fusion.bulk.sources.base import SourceFormat as SourceFormat
from fusion.bulk.sources.base import SourceRow as SourceRow
from fusion.bulk.sources.open import open_source as open_source
from fusion.bulk.sources.columns import Columns as Columns
from fusion.bulk.sources.columns import reads_media as reads_media
from fusion.bulk.sources.open import RowsGiven as RowsGiven
