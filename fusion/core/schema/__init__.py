"""Schemas of answers: short types, a JSON Schema or a file of either; data held to them."""

from fusion.core.schema.shapes import (
    FORMS as FORMS,
    MAX_ITEMS as MAX_ITEMS,
    MAX_LENGTH as MAX_LENGTH,
    Flaw as Flaw,
    array as array,
    check_shape as check_shape,
    closed_object as closed_object,
    enum as enum,
    string as string,
    to_json_schema as to_json_schema,
)
from fusion.core.schema.validator import ClassSchema as ClassSchema, validate as validate
