"""History: the runs and maps of a store."""

from fusion.client.history.export import EXPORT_VERSION as EXPORT_VERSION
from fusion.client.history.history import History as History
from fusion.client.history.history import Which as Which
