"""Runs in the OpenAPI document: the data behind the page, which other programs may read too."""

from typing import Any, Final

from fusion.server.openapi.forms import (
    COUNT,
    FLAG,
    JSON_OBJECT,
    NAME,
    TEXT,
    Schema,
    body,
    listed,
    nullable,
    only,
    parameter,
    record,
    ref,
    refusals,
    reply,
)

_MOMENT: Final[Schema] = {"type": "string", "format": "date-time"}
_SUMMARY: Final = record(
    {"run_id": TEXT, "pipeline": TEXT, "status": TEXT, "started": _MOMENT},
    {"profile": TEXT, "seconds": {"type": "number"}, "tags": JSON_OBJECT, "failure": nullable(JSON_OBJECT)},
)
_RUN: Final = record(
    {
        "run": ref("RunSummary"),
        "state": JSON_OBJECT,
        "event": COUNT,
        "graph": nullable(JSON_OBJECT),
        "limits": JSON_OBJECT,
        "inputs": nullable(listed(JSON_OBJECT)),
        "failed": listed(JSON_OBJECT),
        "gates": listed(ref("AnsweredGate")),
        "models": listed(JSON_OBJECT),
        "receipt": JSON_OBJECT,
    }
)
_ANSWER: Final = record(
    {"answer": TEXT, "by": TEXT, "at": _MOMENT, "via": TEXT}, {"text": nullable(TEXT), "data": {}}
)
_GATE: Final = record(
    {
        "gate": record(
            {"place": NAME, "stage": NAME, "title": TEXT, "who": TEXT, "text": TEXT, "since": _MOMENT},
            {
                "item": nullable(COUNT),
                "ask": only("approve", "edit", "data"),
                "json_schema": nullable(JSON_OBJECT),
                "is_data": FLAG,
                "deadline": nullable(_MOMENT),
                "default": {},
            },
        ),
        "answer": nullable(_ANSWER),
    }
)
_OPEN_GATE: Final = record({"run_id": NAME, "pipeline": NAME, "status": TEXT, **_GATE["properties"]})
_ANSWER_FORM: Final = record(
    {}, {"gate": TEXT, "yes": FLAG, "text": nullable(TEXT), "data": {}, "by": TEXT, "via": TEXT}
)
_OFFER: Final = record(
    {
        "name": NAME,
        "description": TEXT,
        "limits": JSON_OBJECT,
        "inputs": listed(
            record({"name": NAME, "description": TEXT, "format": TEXT, "required": {"type": "boolean"}})
        ),
    }
)
_FORM: Final = record(
    {"pipeline": NAME, "inputs": {"type": "object", "additionalProperties": TEXT}},
    {"usd": nullable({"type": ["string", "number"]})},
)

_AMOUNT: Final = {"type": ["string", "integer"]}
_BALANCE: Final = record(
    {
        "name": NAME,
        "per": only("day", "week", "month", "store"),
        "period": TEXT,
        "opens": nullable(_MOMENT),
        "limits": {
            "type": "object",
            "additionalProperties": record({"limit": _AMOUNT, "spent": _AMOUNT, "leased": _AMOUNT, "left": _AMOUNT}),
        },
    }
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Balance": _BALANCE,
    "RunSummary": _SUMMARY,
    "Run": _RUN,
    "Offer": _OFFER,
    "RunForm": _FORM,
    "AnsweredGate": _GATE,
    "OpenGate": _OPEN_GATE,
    "GateAnswer": _ANSWER,
    "AnswerForm": _ANSWER_FORM,
}

_ID: Final = parameter("id", "path", "Id of the run, or its beginning.", NAME, required=True)
_FILTERS: Final = [
    parameter("status", "query", "Status; repeatable.", listed(TEXT)),
    parameter("tag", "query", "Tag as NAME=VALUE; repeatable.", listed(TEXT)),
    parameter("pipeline", "query", "Name of the pipeline."),
    parameter("since", "query", "Earliest start, in ISO 8601."),
    parameter("before", "query", "Latest start, in ISO 8601."),
    parameter("q", "query", "Words in the id, pipeline, tags or failure."),
    parameter("after", "query", "`next` of the page before."),
    parameter("limit", "query", "Runs at most.", {"type": "integer", "minimum": 1, "maximum": 500}),
]


def _operation(name: str, summary: str, answer: Schema, *parameters: Schema, **more: Any) -> Schema:
    """Return an operation of the page."""
    responses = {"200": answer, **refusals("AnyError", 400, 401, 403, 404, 503)}
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["runs"],
        "parameters": list(parameters),
        "responses": responses,
        **more,
    }


def _sent(status: str, answer: Schema, form: str = "RunForm", *others: int) -> dict[str, Any]:
    """Return the body and the responses of a form of the page."""
    refused = sorted((400, 401, 403, 404, 408, 413, 415, 429, 503, *others))
    return {
        "requestBody": body(ref(form)),
        "responses": {status: answer, **refusals("AnyError", *refused)},
    }


PATHS: Final[dict[str, Schema]] = {
    "/api/runs": {
        "get": _operation(
            "listRuns",
            "List runs of the store, newest first.",
            reply("A page of runs.", record({"runs": listed(ref("RunSummary")), "next": nullable(TEXT)})),
            *_FILTERS,
        ),
        "post": _operation(
            "startRun",
            "Start a run of a served pipeline, and return at once.",
            {},
            **_sent("201", reply("The run.", record({"run_id": TEXT}))),
        ),
    },
    "/api/runs/{id}": {
        "get": _operation(
            "getRun", "Return a run, its stages, costs and failures.", reply("The run.", ref("Run")), _ID
        )
    },
    "/api/runs/{id}/events": {
        "get": _operation(
            "followRun",
            "Follow the events of a run, live or from the store.",
            {
                "description": "Events; the `id` of each is its number.",
                "content": {"text/event-stream": {"schema": TEXT}},
            },
            _ID,
            parameter("after", "query", "Number of the last event that is known.", COUNT),
            parameter("Last-Event-ID", "header", "The same, as browsers send it."),
        )
    },
    "/api/runs/{id}/gates": {
        "get": _operation(
            "listGatesOfRun",
            "Return the questions of a run to people, with their answers.",
            reply("The gates.", record({"gates": listed(ref("AnsweredGate"))})),
            _ID,
        ),
        "post": _operation(
            "answerGate",
            "Answer a gate of a run, which then goes on; the first answer counts.",
            {},
            _ID,
            **_sent(
                "200",
                reply("The answer.", record({"run_id": NAME, "answer": ref("GateAnswer")})),
                "AnswerForm",
                409,
            ),
        ),
    },
    "/api/budgets": {
        "get": _operation(
            "listBudgets",
            "List the budgets with a period, with what is spent, leased and left of them now.",
            reply(
                "The budgets; none for a caller that sees its own runs alone.",
                record({"budgets": listed(ref("Balance"))}),
            ),
        )
    },
    "/api/gates": {
        "get": _operation(
            "listOpenGates",
            "List the open questions of runs to people.",
            reply("The open gates.", record({"gates": listed(ref("OpenGate"))})),
        )
    },
    "/api/pipelines": {
        "get": _operation(
            "listPipelines",
            "List the served pipelines with their inputs and limits.",
            reply("Pipelines.", record({"pipelines": listed(ref("Offer"))})),
        )
    },
    "/api/quote": {
        "post": _operation(
            "quoteRun",
            "Quote a run of a served pipeline, without a call.",
            {},
            **_sent("200", reply("The quote.", ref("Quote"))),
        )
    },
}
