"""The life of a Fusion: threads, loops, forks, streams left half-way, closing at any moment, bugs of others."""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from fusion import Fusion, Result, RunFailed, Say, ScriptedModel
from fusion.core.errors import UsageError
from tests.conftest import pipeline, scripted

ONE = pipeline('stages: {answer: {kind: generate, prompt: "Say hello."}}\noutput: answer')
LONG = Say(pieces=["one ", (60.0, "two")])


def made(script: Any, **options: Any) -> Fusion:
    model = script if isinstance(script, ScriptedModel) else scripted(script, "frontier")
    return Fusion(profile="local", roles={"frontier": model}, **options)


def until(true: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Wait until something of another thread's is so."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not true() and time.monotonic() < end:
        pause.wait(0.005)
    return true()


def loops() -> int:
    return sum(thread.name.startswith("fusion-") for thread in threading.enumerate())


# A fault of somebody else's.


class _LostError(Exception):
    pass


def _fails_at(kind: str) -> Callable[[Any], None]:
    def on_event(event: Any) -> None:
        if event.type == kind:
            raise _LostError(kind)

    return on_event


@pytest.mark.parametrize("kind", ["run_started", "run_finished"])
def test_a_stream_whose_run_dies_of_a_fault_ends_with_it(kind: str) -> None:
    with made("hello") as one:
        with pytest.raises(_LostError), one.stream(pipeline=ONE, on_event=_fails_at(kind)) as stream:
            list(stream)
        with pytest.raises(_LostError):
            assert stream.result

        async def main() -> list[str]:
            async with one.astream(pipeline=ONE, on_event=_fails_at(kind)) as pieces:
                return [piece async for piece in pieces]

        with pytest.raises(_LostError):
            asyncio.run(asyncio.wait_for(main(), 5))


@pytest.mark.parametrize("kind", ["run_started", "call_started", "run_finished"])
def test_leaving_the_program_from_inside_an_event_leaves_the_others_at_work(kind: str) -> None:
    def on_event(event: Any) -> None:
        if event.type == kind:
            sys.exit(7)

    with made("hello") as one:
        with pytest.raises(SystemExit, match="7"):
            one.complete(pipeline=ONE, on_event=on_event)
        assert one.complete(pipeline=ONE).text == "hello"


def test_a_stream_may_be_read_twice() -> None:
    with made("hello") as one, one.stream(pipeline=ONE) as stream:
        assert list(stream) == ["hello"]
        assert list(stream) == list(stream) == []


# Left half-way.


def test_a_stream_that_nobody_holds_any_more_stops_its_run() -> None:
    model = ScriptedModel(LONG, name="scripted/frontier")
    ended: list[Any] = []
    with made(model, budget={"calls": 3}) as one:
        for piece in one.stream(pipeline=ONE, on_event=ended.append):
            assert piece == "one "
            break
        gc.collect()
        assert until(lambda: ended[-1].type == "run_finished")
    assert (model.cancelled, model.in_flight) == (1, 0)
    assert ended[-1].failure.reason == "Interrupted"


def test_an_async_stream_that_is_left_stops_its_run_even_when_its_loop_is_gone() -> None:
    model = ScriptedModel(LONG, name="scripted/frontier")

    async def main(one: Fusion) -> None:
        async for piece in one.astream(pipeline=ONE):
            assert piece == "one "
            break

    with made(model) as one:
        asyncio.run(main(one))
        gc.collect()
        assert until(lambda: model.cancelled == 1)


def test_a_run_can_be_stopped_from_inside_of_its_events_but_not_waited_for() -> None:
    refused: list[str] = []

    def on_event(event: Any) -> None:
        if event.type == "call_started":
            ready.wait(5)
            for wait in (handle[0].wait, handle[0].cancel, one.close):
                with pytest.raises(UsageError) as caught:
                    wait()
                refused.append(str(caught.value))
            handle[0].stop()

    ready = threading.Event()
    with made(Say("late", delay=60)) as one:
        handle = [one.start(pipeline=ONE, on_event=on_event)]
        ready.set()
        assert handle[0].wait(5).error.reason == "Interrupted"
    assert len(refused) == 3
    assert all("do it elsewhere" in words for words in refused)


# Closing.


def test_closed_is_closed() -> None:
    with made("hello") as one:
        assert one.complete(pipeline=ONE).text == "hello"
    one.close()
    with pytest.raises(UsageError, match="closed; make another"):
        one.complete(pipeline=ONE)
    never = made("hello")
    never.close()
    with pytest.raises(UsageError, match="closed; make another"):
        never.stream(pipeline=ONE)


def test_closing_while_threads_start_runs_lets_none_of_them_wait_for_ever() -> None:
    one = made(Say("late", delay=60))
    began = threading.Event()

    def ask(_: int) -> str:
        try:
            while True:
                began.set()
                one.complete(pipeline=ONE)
        except RunFailed as failed:
            return failed.result.error.reason
        except UsageError as error:
            return str(error).partition(";")[0]

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, n) for n in range(8)]
        began.wait(5)
        one.close()
        said = {future.result(10) for future in asked}
    assert said <= {"Interrupted", "this Fusion is closed"}


def test_a_fusion_that_only_its_run_holds_lives_as_long_as_it() -> None:
    before = loops()
    handle = made(Say("hello", delay=0.05)).start(pipeline=ONE)
    gc.collect()
    assert handle.wait(5).text == "hello"
    del handle
    gc.collect()
    assert until(lambda: loops() == before)
    made(Say("hello", delay=0.05)).start(pipeline=ONE)  # nobody holds anything
    gc.collect()
    assert until(lambda: loops() == before)


def test_ctrl_c_in_complete_stops_the_run_and_is_raised() -> None:
    model = ScriptedModel(Say("late", delay=60), name="scripted/frontier")
    me = threading.get_ident()

    def press() -> None:
        assert until(lambda: model.in_flight == 1)
        signal.pthread_kill(me, signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with made(model) as one, pytest.raises(KeyboardInterrupt):
            one.complete(pipeline=ONE)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (model.cancelled, model.in_flight) == (1, 0)


# Processes and loops.


def test_a_forked_process_is_told_to_make_its_own_and_ends() -> None:
    with made("hello") as one:
        one.complete(pipeline=ONE)
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(theirs, _in_child(one).encode())
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours) as said:
            assert said.read() == "this Fusion is at work in the process that this one was forked from; hello"
        assert os.waitpid(child, 0)[1] == 0
        assert one.complete(pipeline=ONE).text == "hello"


def _in_child(one: Fusion) -> str:
    try:
        one.complete(pipeline=ONE)
    except UsageError as error:
        one.close()
        with made("hello") as own:
            return f"{str(error).partition(';')[0]}; {own.complete(pipeline=ONE).text}"
    return "no error"


def test_several_asyncio_runs_share_one_fusion() -> None:
    with made("hello") as one:

        async def ask() -> Result:
            return await one.acomplete(pipeline=ONE)

        assert [asyncio.run(ask()).text for _ in range(3)] == ["hello"] * 3


# Answers in shapes.


class _Even(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _is_even(cls, n: int) -> int:
        if n % 2:
            raise ValueError("it is odd")
        return n


class _Strange(BaseModel):
    f: Callable[[], None]


def test_data_that_the_class_itself_refuses_fails_the_run_with_its_result() -> None:
    with made({"n": 3}) as one:
        with pytest.raises(RunFailed, match="it is odd") as caught:
            one.complete(pipeline=ONE, schema=_Even)
        assert caught.value.result.status == "failed"
        assert len(caught.value.result.receipt.lines) == 1


@pytest.mark.parametrize("given", [_Strange, dict])
def test_a_class_that_has_no_schema_is_refused(given: Any) -> None:
    with made("x") as one, pytest.raises(UsageError, match="give a pydantic class"):
        one.complete(pipeline=ONE, schema=given)


# Files that change.


def test_a_file_that_was_edited_is_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "prompts" / "own"
    folder.mkdir(parents=True)
    (folder / "ask.md.j2").write_text('first {% include "own/more" %}')
    (folder / "more.md.j2").write_text("one")
    (tmp_path / "shape.json").write_text('{"type": "object", "properties": {"n": {"type": "integer"}}}')
    text = "stages: {answer: {kind: generate, prompt: own/ask, schema: shape.json}}\noutput: answer.data"
    path = tmp_path / "own.yaml"
    path.write_text(text)
    asked: list[str] = []

    def script(request: Any) -> Any:
        asked.append(request.messages[-1].content)
        return {"n": 1}

    def edit(file: Path, words: str) -> None:
        file.write_text(words)
        os.utime(file, ns=(0, len(asked)))  # whatever the clock of this file system can tell apart

    with made(script) as one:
        assert one.complete(pipeline=path).data == {"n": 1}  # its files lie beside it, not where we are
        edit(folder / "more.md.j2", "two")
        one.complete(pipeline=path)
        edit(folder / "ask.md.j2", "second")
        one.complete(pipeline=path)
        edit(path, text.replace("own/ask", "'third {{ 1 }}'"))
        one.complete(pipeline=path)
        edit(tmp_path / "shape.json", '{"type": "array"}')
        (tmp_path / "shape.json").unlink()
        with pytest.raises(UsageError, match=r"no file 'shape\.json'"):
            one.complete(pipeline=path)
    assert asked == ["first one", "first two", "second", "third 1"]
