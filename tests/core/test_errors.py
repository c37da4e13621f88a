"""Errors survive pickling and copying, with message and attributes."""

import copy
import pickle
from collections.abc import Iterator

import pytest

from fusion import RunFailed
from fusion.core import errors
from fusion.core.bounded.clock import TimeUpError
from fusion.core.errors import FusionError, PipelineError, Problem
from fusion.core.result import Result
from fusion.core.types import Asked, CallKey, FileText

KEY = CallKey(stage="s", step="work", digest="d")
PROBLEM = Problem("p.yaml", 1, 2, "stages.a", "no such thing")
TWO = [Problem("p.yaml", 9, 1, "b", "second"), PROBLEM]
WITH_MORE: list[FusionError] = [
    PipelineError(TWO),
    errors.MissingKeyError("no key", keys=["A_KEY"]),
    errors.RateLimitError("slow down", model="m", retry_after=3.5),
    errors.ModelConnectionError("gone", model="m", answered=True, sent=False),
    errors.BadResponseError("half", model="m", text="ha", calls=(KEY,)),
    errors.ShapeError("no shape", model="m", text="{}", calls=(KEY,)),
    errors.BudgetError("too dear", limit="usd", level="run"),
    TimeUpError("too long"),
]


def of_one_message() -> Iterator[FusionError]:
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, FusionError) and value not in (PipelineError, RunFailed):
            yield value(f"a message of {value.__name__}")


@pytest.mark.parametrize("error", [*WITH_MORE, *of_one_message()], ids=lambda error: type(error).__name__)
def test_an_error_comes_back_as_it_was(error: FusionError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        assert again.exit_code == error.exit_code


def test_a_run_failed_carries_its_result(failed: RunFailed) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(failed, protocol))
        assert (str(again), again.exit_code) == (str(failed), failed.exit_code)
        assert again.result.model_dump_json() == failed.result.model_dump_json()


@pytest.fixture
def failed(fusion: object) -> RunFailed:
    from tests.conftest import pipeline

    text = "inputs: {t: What.}\nstages:\n  a: {kind: generate, prompt: '{{ inputs.t }}'}\noutput: a"
    made = fusion({"frontier": errors.BadRequestError("no")})  # type: ignore[operator]
    with pytest.raises(RunFailed) as caught:
        made.complete(Asked("x", system="s"), pipeline=pipeline(text))
    assert isinstance(caught.value.result, Result)
    return caught.value


def test_texts_with_an_origin_come_back_with_it() -> None:
    text, asked = FileText("a", "f.txt"), Asked("b", (), "be brief")
    assert pickle.loads(pickle.dumps(text)).where == "f.txt"
    assert copy.deepcopy(asked).system == "be brief"
