"""Requests made of the OpenAPI document, sent to a server, whose answers are held against the document."""

import base64
import copy
import json
from collections import Counter
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode

from fusion.server.openapi.document import document

MODEL = "echo"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
_REAL = {"data": PNG, "file_data": f"data:image/png;base64,{PNG}", "url": f"data:image/png;base64,{PNG}"}
"""Contents of files, which no generator makes."""
_LAST: dict[str, tuple[str, Any]] = {
    "/v1/chat/completions": ("messages", {"role": "user", "content": "hello"}),
    "/v1/responses": ("input", {"role": "user", "content": "hello"}),
    "/v1/messages": ("messages", {"role": "user", "content": "hello"}),
    "/v1/messages/count_tokens": ("messages", {"role": "user", "content": "hello"}),
}
"""Field of the turns at each path, and a last turn that a run can answer."""


def known() -> dict[str, Any]:
    """The document, for which only the served model exists."""
    known = copy.deepcopy(document())
    for name in ("ChatRequest", "ResponseRequest", "MessageRequest", "CountRequest"):
        known["components"]["schemas"][name]["properties"]["model"] = {"const": MODEL}
    for schema in known["components"]["schemas"].values():
        close(schema)
    known["components"]["schemas"]["FusionFields"]["properties"]["inputs"] = {"const": {}}
    return known


def close(schema: Any) -> None:
    """Let unknown fields be few and flat, so that requests vary in the known ones."""
    if isinstance(schema, list):
        for one in schema:
            close(one)
    elif isinstance(schema, dict):
        for name, value in _REAL.items():
            if name in schema.get("properties", {}):
                schema["properties"][name] = {"const": value}
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = {"type": ["string", "integer", "null"]}
        for one in list(schema.values()):
            close(one)


def hold(url: str, path: str, *, cases: int, negative: bool = False, start: int = 0) -> Counter[int]:
    """Send `cases` requests to the `post` of a path; gives how many got which status. Raises at the first breach."""
    operation = schemathesis.openapi.from_dict(known())[path]["POST"]
    mode = GenerationMode.NEGATIVE if negative else GenerationMode.POSITIVE
    found: Counter[int] = Counter()
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:

        @seed(start)
        @settings(
            max_examples=cases,
            database=None,
            deadline=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            body = case.body if negative else answerable(path, whole(case.body))
            raw = json.dumps(body).encode() if not isinstance(body, bytes) else body
            headers = {
                **{str(k): str(v) for k, v in (case.headers or {}).items()},
                "content-type": "application/json",
            }
            answer = client.post(path, content=raw, headers=clean(headers))
            found[answer.status_code] += 1
            check(path, answer, body)

        send()
    return found


def clean(headers: dict[str, str]) -> dict[str, str]:
    """The headers that HTTP can carry."""
    return {name: value for name, value in headers.items() if value.isascii() and value.isprintable()}


def whole(value: Any) -> Any:
    """A value whose whole numbers are written as such, which a schema does not ask for."""
    if isinstance(value, dict):
        return {name: whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def answerable(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A body with a last turn that a run can answer, and a choice among the tools that there are."""
    field, last = _LAST[path]
    if isinstance(body.get("tool_choice"), dict) and "name" in json.dumps(body["tool_choice"]):
        body = {**body, "tool_choice": None}
    turns = body.get(field)
    return {**body, field: [*turns, last]} if isinstance(turns, list) else body


def check(path: str, answer: httpx.Response, body: Any) -> None:
    """Hold the answer to a request against the document."""
    said = f"{answer.status_code} {answer.text[:2000]} for {json.dumps(body, default=str)[:3000]}"
    assert answer.status_code < 500 or answer.status_code == 503, said
    described(path, "post", answer, said)


def described(path: str, method: str, answer: httpx.Response, said: str = "") -> None:
    """Hold an answer against the document."""
    responses = document()["paths"][path][method]["responses"]
    said = said or f"{answer.status_code} {answer.text[:2000]}"
    assert str(answer.status_code) in responses, said
    kind = answer.headers["content-type"].partition(";")[0]
    content = responses[str(answer.status_code)]["content"]
    assert kind in content, said
    if kind == "application/json":
        conforms(content[kind]["schema"], answer.json(), said)
    elif schema := content[kind].get("x-event-schema"):
        for data in events(answer.text):
            conforms(schema, data, said)


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def conforms(schema: dict[str, Any], data: Any, said: str) -> None:
    whole = {**schema, "components": document()["components"]}
    flaws = [f"{flaw.json_path}: {flaw.message[:300]}" for flaw in Draft202012Validator(whole).iter_errors(data)]
    assert flaws == [], f"{flaws} in {said}"
