"""Legacy completions: refused, with the setting that makes clients send chat completions."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fusion.server.base import RefusedError
from fusion.server.service import Service


def routes(service: Service) -> Sequence[BaseRoute]:
    """Return the route of `POST /v1/completions`."""

    async def refused(request: Request) -> Response:
        raise RefusedError(
            "legacy completions are not served: send chat completions to /v1/chat/completions (in LlamaIndex, set "
            "is_chat_model=True; in LangChain, use ChatOpenAI; in Continue, set useLegacyCompletionsEndpoint: false)",
            status=404,
            kind="not_found_error",
            code="legacy_completions",
        )

    return [Route("/v1/completions", refused, methods=["POST"])]
