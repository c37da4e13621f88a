"""Runs of the history as text: a table of runs, a call with its messages, the differences of two runs."""

from collections.abc import Iterable, Iterator, Sequence

from fusion.cli.terminal import one_line, table
from fusion.cli.views.history.maps import progress_words
from fusion.cli.views.lines import cost_words, dollars, reason, seconds, waited_words
from fusion.client.history.map_types import MapSummary
from fusion.client.history.run_types import CallDetails, CallLine, CallPair, RunDiff, RunSummary

_HEAD = ["run", "status", "pipeline", "started", "calls", "cost", "time", ""]
_RIGHT = frozenset({4, 5, 6})
_SPARED = (3,)
"""The start, which the id of a run says too, is left out on a narrow terminal."""
_PAIRS_AT_MOST = 40
_SAME = "same"


def list_lines(runs: Sequence[RunSummary | MapSummary], width: int | None = None) -> list[str]:
    """Format runs and maps as a table; a map is one line with its progress."""
    return table([_HEAD, *map(_row, runs)], right=_RIGHT, width=width, spared=_SPARED, whole={0})


def _row(run: RunSummary | MapSummary) -> list[str]:
    if isinstance(run, MapSummary):
        name, about = run.map_id, [f"map: {progress_words(run)}{f'; {run.source}' if run.source else ''}"]
    else:
        name, about = run.run_id, _from(run)
    return [
        name,
        run.status,
        run.pipeline,
        f"{run.started.astimezone():%Y-%m-%d %H:%M}",
        f"{run.calls:,}",
        cost_words(run.cost.usd, run.cost.unknown_calls),
        seconds(run.seconds),
        one_line(" ".join([*(f"{key}={value}" for key, value in run.tags.items()), *about])),
    ]


def _from(run: RunSummary) -> list[str]:
    return [] if run.parent is None else [f"(from {run.parent})"]


def run_line(run: RunSummary) -> str:
    """Format the state, profile, start, origin and tags of a run as one line."""
    again = f" in {run.sessions} sessions" if run.sessions > 1 else ""
    words = [
        f"{run.run_id}: {run.pipeline}, {run.status}{again}",
        f"profile {run.profile}",
        f"began {run.started.astimezone():%Y-%m-%d %H:%M:%S}",
        *([f"from {run.parent}"] if run.parent else []),
        *(f"{key}={value}" for key, value in run.tags.items()),
    ]
    return one_line("; ".join(words))


# A call.


def call_lines(call: CallDetails) -> list[str]:
    """Format the messages and the reply of a call under headings."""
    lines = [f"call {call.number}: {call.place}, {call.state}", f"role {call.role}, {_models(call)}", *_about(call)]
    if call.parameters:
        lines.append(", ".join(f"{name} {value}" for name, value in call.parameters.items() if name != "json_schema"))
    if call.messages is None:
        lines.append("messages and reply were not kept")
    for message in call.messages or ():
        parts = "".join(part if isinstance(part, str) else str(part) for part in message.parts)
        lines += ["", f"--- {message.role}", parts]
    if call.text is not None:
        lines += ["", "--- reply", call.text]
    if call.failure is not None:
        lines += ["", f"failed: {reason(call.failure)}"]
    return lines


def _models(call: CallLine) -> str:
    by = "" if call.by is None else f", answered by fallback {call.by}"
    served = f" (served by {call.served})" if call.served not in ("", call.by or call.asked) else ""
    return f"model {call.asked}{by}{served}"


def _about(call: CallLine) -> Iterator[str]:
    if call.usage is None:
        yield seconds(call.seconds)
        return
    about = "~" if call.usage.source == "estimated" else ""
    cost = "cost unknown" if call.cost is None else dollars(call.cost)
    finish = "" if call.finish_reason in ("stop", None) else f", {call.finish_reason}"
    tokens = f"{about}{call.usage.input:,} tokens in, {about}{call.usage.output:,} out"
    origin = "" if call.reused is None else f"; reused from {call.reused} at no cost, original cost shown"
    yield f"{tokens}, {cost}, {seconds(call.seconds)}{waited_words(call.waited)}{finish}{origin}"


# Two runs.


def diff_lines(diff: RunDiff, width: int | None = None) -> list[str]:
    """Format the differences of two runs, part by part."""
    return [
        *list_lines([diff.a, diff.b], width),
        *_section("pipeline", diff.pipeline),
        *_inputs(diff),
        *_roles(diff, width),
        "",
        *_calls(diff, width),
        *_section("answer", diff.answer, missing="an answer is missing or was not kept"),
    ]


def _section(name: str, lines: Iterable[str] | None, *, missing: str = "was not kept") -> list[str]:
    if lines is None:
        return ["", f"{name}: {missing}"]
    found = [*lines]
    return ["", f"{name}:", *found] if found else ["", f"{name}: the same"]


def _inputs(diff: RunDiff) -> list[str]:
    if not diff.inputs:
        return ["", f"inputs: {'were not kept' if diff.inputs is None else 'the same'}"]
    return [line for one in diff.inputs for line in _section(f"input {one.name}", one.diff)]


def _roles(diff: RunDiff, width: int | None) -> list[str]:
    if not diff.models:
        return ["", f"models: {'were not kept' if diff.models is None else 'the same'}"]
    rows = [[f"  {one.role}", ", ".join(one.a) or "-", "->", ", ".join(one.b) or "-"] for one in diff.models]
    return ["", "models:", *table(rows, width=width)]


def _calls(diff: RunDiff, width: int | None) -> list[str]:
    counts = ", ".join(f"{count:,} {state}" for state, count in diff.counts.items())
    others = [pair for pair in diff.calls if pair.state != _SAME]
    lines = [f"calls: {counts or 'none'}"]
    lines += table([_pair(pair) for pair in others[:_PAIRS_AT_MOST]], width=width)
    if len(others) > _PAIRS_AT_MOST:
        lines.append(f"  and {len(others) - _PAIRS_AT_MOST:,} more; `--json` names all")
    return lines


def _pair(pair: CallPair) -> list[str]:
    item = "" if pair.item is None else f"{pair.item + 1}/"
    return [
        f"  {pair.stage}/{item}{pair.step}",
        pair.state,
        "" if pair.a is None else f"a: {pair.a}",
        "" if pair.b is None else f"b: {pair.b}",
    ]
