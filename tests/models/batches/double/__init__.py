"""A double of the providers' batch APIs on loopback, which fails, expires, loses and mixes rows as it is told."""

from tests.models.batches.double.server import Double as Double
from tests.models.batches.double.server import DoubleProcess as DoubleProcess
from tests.models.batches.double.state import Counts as Counts
from tests.models.batches.double.state import Switches as Switches
