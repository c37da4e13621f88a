"""The door to litellm over the life of a process: loading, several loops, and what is left behind."""

import asyncio
import gc
import subprocess
import sys

import pytest

from fusion.core.types import Request
from fusion.models.providers.litellm import LiteLLMModel, close_all, warm
from tests.models.conformance import Collected, request
from tests.provider import Answer, Provider


def model(provider: Provider) -> LiteLLMModel:
    return LiteLLMModel("openai/mock", api_base=provider.url, api_key="sk-of-a-test")


def test_one_loop_after_the_other() -> None:
    async def run(one: LiteLLMModel) -> None:
        assert (await one.complete(request())).text == "hello"
        assert (await one.complete(request(), Collected())).text == "hello"
        await close_all()

    with Provider() as provider:
        one = model(provider)
        for _ in range(3):
            asyncio.run(run(one), debug=True)
            assert provider.wait_until(lambda p: p.open == 0)
        gc.collect()


@pytest.mark.parametrize("ended", [True, False])
def test_a_worker_of_a_program_that_calls_litellm_itself_is_left_alone(ended: bool) -> None:
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER as WORKER

    async def own() -> asyncio.Task[None]:
        WORKER.start()
        assert WORKER._worker_task is not None
        return WORKER._worker_task

    async def run() -> None:
        await warm()
        await close_all()

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(own())
    if ended:
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()
    asyncio.run(run())
    if not ended:
        assert not task.cancelled()
        loop.run_until_complete(WORKER.stop())
        loop.close()


@pytest.mark.parametrize("answer", [Answer(), Answer(status=500), Answer(drop="reset"), Answer(pieces=["a"] * 9)])
def test_no_task_is_left(answer: Answer) -> None:
    async def run(provider: Provider) -> None:
        one = model(provider)
        await asyncio.gather(
            *(one.complete(request(), listener) for listener in (None, Collected())), return_exceptions=True
        )
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await close_all()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with Provider(answer) as provider:
        asyncio.run(run(provider))


def test_first_calls_at_once_load_once_and_the_loop_goes_on() -> None:
    """In a new process: importing the door loads nothing, and litellm's import does not hold up the loop."""
    code = """
import asyncio, os, sys, time
from fusion.models.providers.litellm import close_all, warm
assert not {"litellm", "openai", "aiohttp", "httpx"} & set(sys.modules)
async def main():
    await close_all()
    assert "litellm" not in sys.modules
    ticks = 0
    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1
    ticking = asyncio.create_task(tick())
    await asyncio.gather(warm(), warm(), warm())
    ticking.cancel()
    assert ticks > 10, ticks
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True" and os.environ["LITELLM_MODE"] == "PRODUCTION"
    import litellm
    assert litellm.suppress_debug_info and not litellm.callbacks and not litellm.success_callback
    await close_all()
asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_request_is_not_changed() -> None:
    asked_for = request(json_schema={"type": "object", "properties": {"title": {"type": "string"}}})
    before = asked_for.model_dump_json()
    with Provider(Answer(echo_schema=True)) as provider:

        async def run() -> None:
            await model(provider).complete(asked_for)
            await close_all()

        asyncio.run(run())
    assert Request.model_validate_json(before) == asked_for
