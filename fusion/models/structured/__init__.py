"""Structured output: schemas for providers, and replies read, mended and checked by them."""

from fusion.models.structured.replies import complete as complete
from fusion.models.structured.replies import form as form
from fusion.models.structured.replies import read as read
from fusion.models.structured.replies import reading as reading
from fusion.models.structured.replies import shaped as shaped
from fusion.models.structured.replies import value_in as value_in
from fusion.models.structured.replies import values_in as values_in
from fusion.models.structured.replies import with_system as with_system
