"""Forms: short ways to write the parts of an OpenAPI document."""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
POSITIVE: Schema = {"type": "integer", "minimum": 1}
DOLLARS: Schema = {"type": "number", "minimum": 0}
JSON_OBJECT: Schema = {"type": "object"}
SHARE: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}


def record(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, **more: Any) -> Schema:
    """Return the schema of an object; further fields are allowed, as clients and servers of these APIs add some."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties, **more}


def listed(of: Schema, **more: Any) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": of, **more}


def only(*values: Any) -> Schema:
    """Return the schema of one of these values."""
    return {"const": values[0]} if len(values) == 1 else {"enum": list(values)}


def either(*schemas: Schema) -> Schema:
    """Return the schema of a value of any of these."""
    return {"anyOf": list(schemas)}


def nullable(schema: Schema) -> Schema:
    """Return the schema of a value that may be null."""
    return either(schema, {"type": "null"})


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def body(schema: Schema) -> Schema:
    """Return the request body of an operation."""
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def reply(description: str, schema: Schema, **more: Any) -> Schema:
    """Return a response with JSON."""
    return {"description": description, "content": {"application/json": {"schema": schema}}, **more}


def streamed(description: str, whole: Schema, event: str, **more: Any) -> Schema:
    """Return a response that is JSON, or server-sent events whose data are of the schema named `event`."""
    content = {
        "application/json": {"schema": whole},
        "text/event-stream": {"schema": TEXT, "x-event-schema": ref(event)},
    }
    return {"description": description, "content": content, **more}


def parameter(name: str, place: str, description: str, schema: Schema = TEXT, **more: Any) -> Schema:
    """Return a parameter; `place` is query, path or header."""
    return {"name": name, "in": place, "description": description, "schema": schema, **more}


def header(description: str, schema: Schema = TEXT) -> Schema:
    """Return a header of a response."""
    return {"description": description, "schema": schema}


_REFUSALS: Mapping[int, str] = {
    400: "The request is wrong; the message names the field.",
    401: "The token is missing or wrong.",
    402: "A budget stopped the run, or has no room for it.",
    403: "A policy, the host or the origin forbids the request.",
    404: "There is no such model, run or path.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the server takes.",
    415: "The body is no JSON.",
    421: "The server is not reached under this host.",
    422: "The run failed; a repeated request is in vain.",
    409: "The run waits for a person, or its question was answered before.",
    429: "Too many requests wait.",
    431: "The headers are larger than the server takes.",
    503: "The server stops, is full, or lacks what the pipeline needs.",
}


def refusals(error: str, *statuses: int) -> dict[str, Schema]:
    """Return the error responses of an operation, in the schema named `error`; all statuses if none is given."""
    headers = {
        "x-should-retry": header("`false` if a repeated request is in vain."),
        "x-fusion-run": header("Run that failed."),
        "retry-after": header("Seconds after which the request may be repeated."),
    }
    return {
        str(status): reply(_REFUSALS[status], ref(error), headers=headers) for status in statuses or tuple(_REFUSALS)
    }


RUN_HEADERS: dict[str, Schema] = {
    "x-fusion-run": header("Id of the run that answers."),
    "x-request-id": header("The same id, for SDKs of OpenAI."),
    "request-id": header("The same id, for SDKs of Anthropic."),
    "x-fusion-pipeline": header("Name of the pipeline."),
    "x-fusion-ignored": header("Fields of the request without an effect, with commas between them."),
}

CALLER_HEADERS = [
    parameter("Idempotency-Key", "header", "Name of the request; a repeat goes on with the same run."),
    parameter("x-stainless-retry-count", "header", "Number of repeats of the request so far.", COUNT),
]
