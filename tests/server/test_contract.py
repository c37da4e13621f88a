"""The OpenAPI document and the server agree."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route

from fusion import Fusion
from fusion.server.app import build
from fusion.server.dialects.table import DIALECTS
from fusion.server.openapi.document import document
from tests.conftest import Write
from tests.server import contract
from tests.server.conftest import Serve, pipeline

CASES = int(os.environ.get("CONTRACT_CASES", "5"))
"""Requests for each path and kind; `CONTRACT_CASES=2000 pytest tests/server/test_contract.py` searches longer."""
PATHS = sorted({*DIALECTS, "/v1/responses"})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("negative", [False, True], ids=["valid", "invalid"])
def test_answers_to_made_requests_are_as_described(serve: Serve, path: str, negative: bool) -> None:
    found = contract.hold(serve("the answer").url, path, cases=CASES, negative=negative)
    assert found.total() > 0
    if not negative:
        assert found[200] > 0, found


def test_the_document_is_served(serve: Serve) -> None:
    with serve().client() as client:
        assert client.get("/openapi.json").json() == document()


@pytest.mark.parametrize("version", [{}, {"anthropic-version": "2023-06-01"}], ids=["openai", "anthropic"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/echo", "/v1/models/none"])
def test_models_are_as_described(serve: Serve, path: str, version: dict[str, str]) -> None:
    described = "/v1/models" if path == "/v1/models" else "/v1/models/{id}"
    with serve().client(headers=version) as client:
        answer = client.get(path)
    schema = document()["paths"][described]["get"]["responses"][str(answer.status_code)]
    contract.conforms(schema["content"]["application/json"]["schema"], answer.json(), path)


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/runs",
        "/api/runs/{id}",
        "/api/budgets",
        "/api/pipelines",
        "/api/runs/{id}/events",
    ],
)
def test_what_is_read_beside_the_apis_is_as_described(serve: Serve, write: Write, path: str) -> None:
    write("[budgets.team]\nusd = 5\ncalls = 9\nper = 'day'\ntags = {}\n")
    served = serve()
    run = served.post("/v1/chat/completions", served.chat()).headers["x-fusion-run"]
    with served.client() as client:
        answer = client.get(path.replace("{id}", run))
        missing = client.get(path.replace("{id}", "none"))
    contract.described(path, "get", answer)
    contract.described(path, "get", missing)


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("/api/runs", {"pipeline": "echo", "inputs": {"prompt": "hello"}}, 201),
        ("/api/runs", {"pipeline": "none", "inputs": {}}, 404),
        ("/api/runs", {"pipeline": "echo"}, 400),
        ("/api/quote", {"pipeline": "echo", "inputs": {"prompt": "hello"}, "usd": "0.1"}, 200),
        ("/api/quote", {"pipeline": "echo", "inputs": {"prompt": "hello"}, "usd": "much"}, 400),
    ],
)
def test_forms_are_answered_as_described(serve: Serve, path: str, form: Any, status: int) -> None:
    answer = serve().post(path, form)
    assert answer.status_code == status
    contract.described(path, "post", answer)


@pytest.mark.parametrize("name", sorted(document()["components"]["schemas"]))
def test_a_schema_is_valid(name: str) -> None:
    Draft202012Validator.check_schema(document()["components"]["schemas"][name])


def test_references_lead_to_schemas_that_are_used() -> None:
    named = set(references(document()))
    assert named == {f"#/components/schemas/{name}" for name in document()["components"]["schemas"]}


def references(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for one in part:
            yield from references(one)
    elif isinstance(part, dict):
        for name, one in part.items():
            yield from [one] if name == "$ref" else references(one)


def test_every_route_of_the_apis_is_described() -> None:
    with Fusion(profile="local", store=True) as fusion:
        app = build(fusion, pipelines={"echo": pipeline()})
    found = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in app.routes
        if isinstance(route, Route) and route.path.startswith("/v1/")
        for method in (route.methods or {"post"}) - {"HEAD"}
    }
    described = {(path, method) for path, item in document()["paths"].items() for method in item}
    assert found <= described
