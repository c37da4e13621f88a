"""Catalog of models: their prices and abilities, from a price file and the settings."""

from fusion.models.catalog.catalog import OWN_SERVER as OWN_SERVER
from fusion.models.catalog.catalog import SAMPLING as SAMPLING
from fusion.models.catalog.catalog import calls_tools as calls_tools
from fusion.models.catalog.catalog import describe as describe
from fusion.models.catalog.catalog import known as known
from fusion.models.catalog.catalog import lookup as lookup
from fusion.models.catalog.catalog import providers as providers
from fusion.models.catalog.catalog import reachable as reachable
from fusion.models.catalog.catalog import refusals as refusals
from fusion.models.catalog.catalog import refused as refused
from fusion.models.catalog.catalog import shipped_price as shipped_price
from fusion.models.catalog.catalog import suggest as suggest
