"""litellm: `import fusion.plugins.litellm` makes every pipeline a model, `litellm.completion("fusion/NAME", …)`.

`inputs` and `budget` are given as keywords or in `extra_body`, `tags` in `extra_body`, since litellm takes `tags` for
itself. Runs are kept in the default store, so that results of tools go on with the run that asked for them. `use`
sets another Fusion.
"""

import fusion.models.providers.litellm  # noqa: F401 - sets the environment of litellm before its import

# isort: split
import asyncio
import functools
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import httpx
import litellm
from litellm.llms.custom_llm import CustomLLM, CustomLLMError

from fusion import Fusion
from fusion.client.client import answered_result
from fusion.client.handle import RunHandle
from fusion.client.options import ContinueOptions, RunOptions
from fusion.client.stream import AsyncRunStream, RunStream
from fusion.core.errors import BudgetError, FusionError, InputError, RunFailed, UsageError
from fusion.core.log import LOG
from fusion.core.params import PARAMS, AnswerOptions
from fusion.core.result import Result
from fusion.plugins.chat import Pieces, Spoken, spoken

PROVIDER: Final = "fusion"
_LIMITS: Final = ("max_tokens", "max_completion_tokens")
_OF_RUN: Final = ("inputs", "budget", "tags")
_BUDGET_EXIT: Final = BudgetError.exit_code
_OURS: Final = frozenset({*PARAMS, *_LIMITS, *_OF_RUN, "tools", "tool_choice", "response_format", "extra_body"})


class _Asked(NamedTuple):
    """A request: what was said, the options of the run and of its answer, and the fields without an effect."""

    said: Spoken
    run: Mapping[str, Any]
    answer: AnswerOptions
    ignored: tuple[str, ...]


class FusionLLM(CustomLLM):  # type: ignore[misc]  # litellm has no types
    """Provider of litellm that runs pipelines of one Fusion."""

    def completion(self, *, model: str, messages: list[Any], optional_params: dict[str, Any], **more: Any) -> Any:
        with _Refusals(model):
            asked = _asked(messages, optional_params)
            handle = _started(model, asked, None)
            result = answered_result(handle, _in_time(handle, more.get("timeout")))
            return _response(result, handle, asked, more["model_response"])

    async def acompletion(
        self, *, model: str, messages: list[Any], optional_params: dict[str, Any], **more: Any
    ) -> Any:
        with _Refusals(model):
            asked = _asked(messages, optional_params)
            handle = _started(model, asked, None)
            async with asyncio.timeout(_seconds(more.get("timeout"))):
                result = await handle.wait_async()
            return _response(answered_result(handle, result), handle, asked, more["model_response"])

    def streaming(
        self, *, model: str, messages: list[Any], optional_params: dict[str, Any], **_: Any
    ) -> Iterator[dict[str, Any]]:
        stream, pieces = RunStream(), Pieces()
        with _Refusals(model):
            handle = _started(model, _asked(messages, optional_params), stream)
            with stream.of(handle, Pieces.whole) as answer:
                for piece in answer:
                    if new := pieces.new(piece, answer.restarts):
                        yield _chunk(new)
                yield from _end(pieces, answered_result(handle, answer.result))

    async def astreaming(
        self, *, model: str, messages: list[Any], optional_params: dict[str, Any], **_: Any
    ) -> AsyncIterator[dict[str, Any]]:
        stream, pieces = AsyncRunStream(), Pieces()
        with _Refusals(model):
            handle = _started(model, _asked(messages, optional_params), stream)
            async with stream.of(handle, Pieces.whole) as answer:
                async for piece in answer:
                    if new := pieces.new(piece, answer.restarts):
                        yield _chunk(new)
                for chunk in _end(pieces, answered_result(handle, await answer.result())):
                    yield chunk


class _Refusals:
    """Raises the errors of Fusion as those of litellm, by their status: 400, 402 for a budget, 422 for a failed run.

    None of them is worth a retry.
    """

    def __init__(self, model: str) -> None:
        self._model = f"{PROVIDER}/{model}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        about = {"model": self._model, "llm_provider": PROVIDER}
        match error:
            case TimeoutError():
                raise litellm.Timeout("the run was stopped: it took longer than the timeout", **about) from error
            case RunFailed() if error.exit_code == _BUDGET_EXIT:
                raise litellm.exceptions.PaymentRequiredError(_words(error), **about) from error
            case RunFailed():
                failed = httpx.Response(422, request=httpx.Request("POST", "https://fusion.invalid"))
                raise litellm.UnprocessableEntityError(_words(error), response=failed, **about) from error
            case UsageError():
                raise litellm.BadRequestError(str(error), **about) from error
            case FusionError():
                raise CustomLLMError(error.http_status, str(error)) from error


def _words(error: RunFailed) -> str:
    return f"{error} (run {error.result.run_id})"


def _end(pieces: Pieces, result: Result) -> Iterator[dict[str, Any]]:
    if rest := pieces.rest(result.text):
        yield _chunk(rest)
    for at, call in enumerate(result.tool_calls):
        function = {"name": call.name, "arguments": call.arguments}
        yield _chunk("") | {"tool_use": {"id": call.id, "type": "function", "function": function, "index": at}}
    yield _chunk("") | {"is_finished": True, "finish_reason": _finish(result), "usage": _usage(result)}


def _chunk(text: str) -> dict[str, Any]:
    return {"text": text, "is_finished": False, "finish_reason": "", "usage": None, "index": 0, "tool_use": None}


# From a request of litellm to a run.


@functools.cache
def _default(process: int) -> Fusion:
    return Fusion(store=True)


_CHOSEN: list[Fusion] = []


def use(fusion: Fusion | None) -> None:
    """Run pipelines with this Fusion from now on; None for one of its own again.

    Tools need one with a `store`, in which runs are found again by their calls.
    """
    _CHOSEN[:] = [] if fusion is None else [fusion]


def _fusion() -> Fusion:
    return _CHOSEN[0] if _CHOSEN else _default(os.getpid())


def _asked(messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> _Asked:
    given = {**(params.get("extra_body") or {}), **{name: one for name, one in params.items() if one is not None}}
    given = {name: one for name, one in given.items() if name != "extra_body"}
    if given.get("n") not in (None, 1):
        raise InputError(f"`n` is {given['n']!r}, and a run has one answer; run it several times")
    ignored = tuple(sorted(given.keys() - _OURS - {"n", "stream", "stream_options"}))
    if ignored:
        LOG.warning("litellm: fields without an effect on a pipeline: %s", ", ".join(ignored))
    options = {name: given[name] for name in PARAMS if name in given}
    limits = [given[name] for name in _LIMITS if name in given]
    if limits:
        options["max_tokens"] = min(limits)
    options |= {"tools": tuple(map(_tool, given.get("tools") or ())), "json_schema": _schema(given)}
    if given.get("tool_choice") is not None:
        options["tool_choice"] = _choice(given["tool_choice"])
    run = {name: given[name] for name in _OF_RUN if name in given}
    return _Asked(spoken(messages), run, AnswerOptions(**options), ignored)


def _tool(given: Any) -> dict[str, Any]:
    function = given.get("function") if isinstance(given, Mapping) else None
    if not isinstance(function, Mapping) or not function.get("name"):
        raise InputError(f"a tool is {given!r:.80}; give {{'type': 'function', 'function': {{'name': …}}}}")
    return {
        "name": function["name"],
        "description": function.get("description") or "",
        "parameters": function.get("parameters") or {},
    }


def _choice(given: Any) -> str:
    if isinstance(given, str):
        return "required" if given == "any" else given
    function = given.get("function", {}) if isinstance(given, Mapping) else {}
    if not function.get("name"):
        raise InputError(f"`tool_choice` is {given!r:.80}; give auto, none, required, or a function")
    return str(function["name"])


def _schema(given: Mapping[str, Any]) -> Any:
    form = given.get("response_format")
    match form:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
    raise InputError(f"`response_format` is {form!r:.80}; give text, json_object or json_schema")


def _started(model: str, asked: _Asked, stream: RunStream | AsyncRunStream | None) -> RunHandle:
    """Start a run, or go on with the one whose calls of tools have their results."""
    fusion, said = _fusion(), asked.said
    sink = None if stream is None else stream.sink
    if said.continues is None:
        options: RunOptions = {"pipeline": model, "answer": asked.answer, "on_event": sink}
        for name in _OF_RUN:
            if name in asked.run:
                options[name] = asked.run[name]
        return fusion.start(said.prompt, stream=stream is not None, **options)
    if "inputs" in asked.run:
        raise InputError("`inputs` have no effect on a run that goes on with results of tools; leave them out")
    answer = AnswerOptions(**{**asked.answer.given, "turns": said.turns})
    more: ContinueOptions = {"answer": answer, "on_event": sink}
    if "budget" in asked.run:
        more["budget"] = asked.run["budget"]
    if "tags" in asked.run:
        more["tags"] = asked.run["tags"]
    return fusion.start_continue(said.continues, said.results, stream=stream is not None, **more)


# From a Result to a response of litellm.


def _seconds(timeout: Any) -> float | None:
    """Return the seconds of a timeout of litellm, which is a number or one of httpx."""
    return timeout if timeout is None or isinstance(timeout, int | float) else timeout.read


def _in_time(handle: RunHandle, timeout: Any) -> Result:
    try:
        return handle.wait(_seconds(timeout))
    except BaseException:
        handle.stop()
        raise


def _finish(result: Result) -> str:
    return str(result.to_openai()["choices"][0]["finish_reason"])


def _usage(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = result.to_openai()["usage"]
    return found


def _response(result: Result, handle: RunHandle, asked: _Asked, response: Any) -> Any:
    said = result.to_openai()
    made = litellm.ModelResponse(**{**said, "id": said["id"]})
    cost = None if result.cost.unknown_calls else float(result.cost.usd)
    made._hidden_params = {
        **(getattr(response, "_hidden_params", None) or {}),
        "response_cost": cost,
        PROVIDER: {
            "run_id": result.run_id,
            "status": result.status,
            "ignored": [*handle.ignored, *asked.ignored],
            "notes": list(result.notes),
        },
    }
    return made


def register() -> None:
    """Add the provider to litellm, once; the import of this module does so."""
    if not any(one["provider"] == PROVIDER for one in litellm.custom_provider_map):
        litellm.custom_provider_map.append({"provider": PROVIDER, "custom_handler": FusionLLM()})
    litellm.suppress_debug_info = True


register()
