"""The OpenAPI document and the server agree."""

import os

import pytest

from tests.server import contract
from tests.server.conftest import Serve

CASES = int(os.environ.get("CONTRACT_CASES", "40"))
"""Requests a path and kind; `CONTRACT_CASES=2000` for a longer search."""
PATHS = ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("negative", [False, True], ids=["valid", "invalid"])
def test_answers_to_made_requests_are_as_described(serve: Serve, path: str, negative: bool) -> None:
    served = serve("the answer")
    found = contract.hold(served.url, path, cases=CASES, negative=negative)
    print(path, negative, dict(found))
    assert found.total() > 0
