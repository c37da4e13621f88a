"""Calls of tools as people see them: lines of a run, its history, its page, and its traces."""

from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fusion import Fusion, Request
from fusion.cli.views.history.timeline import timeline_lines
from fusion.cli.views.live.plain import Plain
from fusion.core.types import ToolResult
from fusion.server.page.run import RunView
from fusion.server.runs.progress import Progress
from fusion.store.lookup import find_run
from tests.stages.hands.doubles import Recorded, call, native, pipeline, twice

STAGE = pipeline("kind: generate, role: bulk, tools: [search, book]")


def script(request: Request) -> Any:
    return twice(request, call("search", 1, q="ice"), call("book", 2, q="\x1b[31mred"))


def tools() -> list[Recorded]:
    refused = Recorded("book", lambda given: ToolResult("no \x1b[31mroom", failed=True), effect="write")
    return [Recorded("search"), refused]


@pytest.mark.parametrize("verbose", [True, False])
def test_lines_tell_of_calls_that_fail_and_verbose_ones_of_all(
    capsys: pytest.CaptureFixture[str], *, verbose: bool
) -> None:
    with Fusion(model=native(script), tools=tools()) as fusion:
        fusion.complete("ice", pipeline=STAGE, on_event=Plain(verbose=verbose).show)
    said = capsys.readouterr().err
    assert "a: book: no room" in said.replace("\x1b[31m", "").replace("�[31m", "")
    assert "\x1b" not in said
    assert ('a: generate-tool-1 calls search {"q": "ice"}: ok, 9 characters' in said) is verbose


def test_the_history_and_the_page_list_the_calls_of_tools(tmp_path: Path) -> None:
    with Fusion(model=native(script), tools=tools(), store=tmp_path / "runs.db") as fusion:
        run_id = fusion.complete("ice", pipeline=STAGE).run_id
        lines = timeline_lines(fusion.runs.show(run_id))
        page = RunView(fusion.store, find_run(fusion.store, run_id), Progress()).whole()
    assert any("generate-tool-1" in line and 'search {"q": "ice"}' in line for line in lines)
    assert any("generate-tool-2" in line and "book: no" in line for line in lines)
    assert [(one["tool"], one["effect"], one["status"]) for one in page["tools"]] == [
        ("search", "read", "ok"),
        ("book", "write", "failed"),
    ]


def test_traces_have_a_span_for_each_call_of_a_tool() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with Fusion(model=native(script), tools=tools(), telemetry=provider) as fusion:
        fusion.complete("ice", pipeline=STAGE)
    spans: dict[str, ReadableSpan] = {span.name: span for span in exporter.get_finished_spans()}
    found, refused = spans["execute_tool search"], spans["execute_tool book"]
    assert found.attributes is not None
    assert refused.attributes is not None
    assert found.attributes["gen_ai.operation.name"] == "execute_tool"
    assert found.attributes["gen_ai.tool.name"] == "search"
    assert (found.attributes["fusion.step"], found.attributes["fusion.tool.effect"]) == ("generate-tool-1", "read")
    assert "gen_ai.tool.call.arguments" not in found.attributes
    assert refused.attributes["error.type"] == "ToolFailed"
    assert found.parent is not None
    assert found.parent.span_id == spans["stage a"].context.span_id
