"""JSON texts of the values that a store keeps."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from fusion.core.events import Noted, StageFinished
from fusion.core.result import Cost, Result
from fusion.core.types import Failure, Reply, Usage, Value
from fusion.store.encoding import value_as_json

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def reply(text: str) -> Reply:
    return Reply(text=text, finish_reason="stop", usage=Usage(input=1), asked="a", served="b", cost=Decimal("1E-30"))


def result(text: str) -> Result:
    data = {"texts": [text, None, 2.5], "Émile": True}
    return Result(run_id="r1", pipeline="p", profile="local", started=NOON, status="ok", text=text, data=data)


@pytest.mark.parametrize(
    "text", ["plain", "", "Émile\n\x00", '"quoted" \\ {}', "\ud800", "half \udcff and whole \U0001f600"]
)
@pytest.mark.parametrize(
    "of",
    [
        lambda text: Failure(reason="StageError", message=text),
        lambda text: Noted(run_id="r1", at=NOON, message=text),
        lambda text: StageFinished(kind=text, status="ok", seconds=0.25, at=NOON),
        lambda text: Cost(usd=Decimal("0.1")),
        reply,
        result,
    ],
)
def test_a_value_is_written_as_its_json_data(of: "type[Value]", text: str) -> None:
    value = of(text)
    written = value_as_json(value)
    written.encode()
    assert json.loads(written) == value.model_dump(mode="json")
    assert type(value).model_validate(json.loads(written)) == value


def test_options_are_those_of_the_dump() -> None:
    event = StageFinished(run_id="r1", stage="\ud800", kind="map", status="ok", seconds=1.0, at=NOON)
    written = json.loads(value_as_json(event, exclude={"run_id"}, exclude_none=True))
    assert written == event.model_dump(mode="json", exclude={"run_id"}, exclude_none=True)
    assert "run_id" not in written
    assert "failure" not in written
