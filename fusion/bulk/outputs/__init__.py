"""Outputs: the finished rows of a map in a file, whole lines only."""

from fusion.bulk.outputs.base import OutputRow as OutputRow
from fusion.bulk.outputs.base import Present as Present
from fusion.bulk.outputs.base import Replacing as Replacing
from fusion.bulk.outputs.base import RowOutput as RowOutput
from fusion.bulk.outputs.base import RowStatus as RowStatus
from fusion.bulk.outputs.fields import answer_fields as answer_fields
from fusion.bulk.outputs.open import open_output as open_output
