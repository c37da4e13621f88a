"""Refusals: errors as responses in the shape of a dialect."""

import re
from typing import Final

from starlette.responses import JSONResponse, Response

from fusion.core.errors import (
    FusionError,
    MissingKeyError,
    PipelineError,
    PolicyError,
    RunBusyError,
    StoreError,
    UsageError,
)
from fusion.core.log import LOG
from fusion.server.base import RefusalShape, RefusedError

_UNSAFE: Final = re.compile(r"[^ -~]")
_LONGEST: Final = 500


def header_text(text: str) -> str:
    """Return a text as the value of a header: printable ASCII, of bounded length."""
    return _UNSAFE.sub("?", text)[:_LONGEST].strip()


def request_ids(run_id: str) -> dict[str, str]:
    """Return the headers that name a run: our own, and those that the SDKs of OpenAI and Anthropic read."""
    named = f"req_{run_id}"
    return {"x-fusion-run": run_id, "x-request-id": named, "request-id": named}


def refuse(shape: RefusalShape, error: RefusedError, run_id: str | None = None) -> Response:
    """Return the response of an error in its shape."""
    headers = {"x-should-retry": "false"} if error.final else {}
    if error.retry_after is not None:
        headers["retry-after"] = f"{max(1, round(error.retry_after))}"
    if run_id is not None:
        headers |= request_ids(run_id)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(shape.refused(error, run_id), status_code=error.status, headers=headers)


def refused(error: FusionError) -> RefusedError:
    """Return an error before a run as the refusal of a request. The log has what concerns the server alone."""
    match error:
        case RefusedError():
            return error
        case PolicyError():
            return RefusedError(str(error), status=403, kind="permission_error", code="policy")
        case PipelineError() | MissingKeyError() | StoreError():
            LOG.error("request refused: %s", error)
            return RefusedError(
                "the server cannot run this pipeline; its log says why", status=503, kind="server_error", code="setup"
            )
        case RunBusyError():
            return RefusedError(str(error), status=503, kind="server_error", code="busy", final=False, retry_after=2)
        case UsageError():
            return RefusedError(str(error), code=type(error).__name__)
    LOG.error("request failed: %s", error)
    return RefusedError(str(error), status=error.http_status, kind="server_error", code=type(error).__name__)
