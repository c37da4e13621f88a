"""Diff: the differences between two runs in pipeline, inputs, models, calls and answers."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fusion.client.history.run_types import CallPair, InputDiff, RoleDiff, RunDiff, RunSummary
from fusion.core.errors import UsageError
from fusion.core.types import File, as_text
from fusion.engine.manifest import Record
from fusion.pipeline.loader import Loader
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library
from fusion.store.base import Store

_Place = tuple[str, int | None, str]


class _Finished(NamedTuple):
    """A finished call: its number, and the digests of its request and reply, None if not kept."""

    number: int
    asked: str | None
    replied: str | None


def compared(store: Store, a: RunSummary, b: RunSummary) -> RunDiff:
    """Return the differences between two runs of a store."""
    old, new = store.record(a.run_id), store.record(b.run_id)
    return RunDiff(
        a=a,
        b=b,
        pipeline=_diff(_lines(_recorded(old)), _lines(_recorded(new)), a, b) if old and new else None,
        inputs=tuple(_inputs(old, new, a, b)) if old and new else None,
        models=tuple(_models(old, new)) if old and new else None,
        calls=tuple(_pairs(_finished(store, a), _finished(store, b))),
        answer=_answers(store, a, b),
    )


def _answers(store: Store, a: RunSummary, b: RunSummary) -> tuple[str, ...] | None:
    old, new = (store.result(run.run_id) if run.status in ("ok", "partial") else None for run in (a, b))
    if old is None or new is None:
        return None
    return _diff(old["text"].splitlines(), new["text"].splitlines(), a, b)


def _diff(old: list[str], new: list[str], a: RunSummary, b: RunSummary) -> tuple[str, ...]:
    return tuple(difflib.unified_diff(old, new, a.run_id, b.run_id, lineterm="", n=2))


def _recorded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded pipeline with its templates, schemas and nested pipelines."""
    nested = {path: _recorded(one) for path, one in record["nested"].items()}
    return {**record["pipeline"], **{key: record[key] for key in ("templates", "schemas")}, "nested": nested}


def _lines(data: Any, path: str = "") -> list[str]:
    """Return data as lines to compare: a path and its value on each, the lines of a text below its path."""
    if isinstance(data, Mapping):
        return [line for key, part in data.items() for line in _lines(part, f"{path}.{key}" if path else str(key))]
    text = as_text(data)
    return [f"{path}: {text}"] if "\n" not in text else [f"{path}:", *(f"  {line}" for line in text.splitlines())]


def _inputs(old: Mapping[str, Any], new: Mapping[str, Any], a: RunSummary, b: RunSummary) -> Iterator[InputDiff]:
    before, now = _input_texts(old), _input_texts(new)
    for name in {**before, **now}:
        diff = _diff(before.get(name, "").splitlines(), now.get(name, "").splitlines(), a, b)
        if diff:
            yield InputDiff(name=name, diff=diff)


def _input_texts(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the inputs as texts; a picture or document as its digest."""
    inputs = Record(record).inputs
    return {
        name: f"{value} SHA-256 {value.digest}" if isinstance(value, File) else as_text(value)
        for name, value in inputs.items()
    }


def _models(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[RoleDiff]:
    before, now = _chains(old["roles"]), _chains(new["roles"])
    for role in {**before, **now}:
        if before.get(role) != now.get(role):
            yield RoleDiff(role=role, a=before.get(role, ()), b=now.get(role, ()))


def _chains(roles: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {role: tuple(info["id"] for info in one["chain"]) for role, one in roles["roles"].items()}


def _finished(store: Store, run: RunSummary) -> dict[_Place, list[_Finished]]:
    """Return the finished calls of a run by stage, item and step."""
    found: dict[_Place, list[_Finished]] = {}
    full, known = run.content == "full", run.content != "off"
    for call in store.calls(run.run_id, texts=full):
        if call.state == "finished" and call.reply is not None:
            digest = hashlib.sha256(call.reply.text.encode()).hexdigest() if full else call.text_digest
            place = (call.key.stage, call.key.item, call.key.step)
            found.setdefault(place, []).append(
                _Finished(call.number, call.key.digest if known else None, digest or None)
            )
    return found


def _pairs(before: dict[_Place, list[_Finished]], now: dict[_Place, list[_Finished]]) -> Iterator[CallPair]:
    for place in {**before, **now}:
        stage, item, step = place
        for a, b, state in _matched(before.get(place, []), now.get(place, [])):
            yield CallPair(
                stage=stage,
                item=item,
                step=step,
                state=state,
                a=a and a.number,
                b=b and b.number,
            )


def _matched(
    before: list[_Finished], now: list[_Finished]
) -> Iterator[tuple[_Finished | None, _Finished | None, str]]:
    """Pair the calls of one place: first those with the same request, then the rest in order."""
    left, right = list(before), list(now)
    for a in before:
        b = next((one for one in right if one.asked == a.asked and a.asked is not None), None)
        if b is not None:
            left.remove(a)
            right.remove(b)
            yield a, b, _replies(a, b)
    for at in range(max(len(left), len(right))):
        if at >= len(left):
            yield None, right[at], "only b"
        elif at >= len(right):
            yield left[at], None, "only a"
        else:
            known = left[at].asked is not None and right[at].asked is not None
            yield left[at], right[at], "different" if known else "not kept"


def _replies(a: _Finished, b: _Finished) -> str:
    if a.replied is None or b.replied is None:
        return "not kept"
    return "same" if a.replied == b.replied else "answered anew"


def differences(old: Record, new: Record, store: Store, run_id: str) -> Iterator[str]:
    """Yield a note for each stage of an edited pipeline: its calls are reused, or made again and why."""
    finished = Counter(key.stage.partition("/")[0] for _, key, state in store.index(run_id) if state == "finished")
    changed = _changed(old.data, new.data)
    touched: dict[str, str] = {}
    for stage, before in _order(new).items():
        if stage in changed:
            touched[stage] = changed[stage]
            yield f"{stage} runs again: {changed[stage]}"
        elif (first := next((name for name in before if name in touched), None)) is not None:
            touched[stage] = first
            if finished[stage]:
                kept = _calls(finished[stage])
                yield f"{stage} runs again where the output of {first!r} changes; {kept} can be reused"
        elif finished[stage]:
            yield f"{stage} is reused from run {run_id}: {_calls(finished[stage])}"


def since_then(record: Record, loader: Loader) -> Iterator[str]:
    """Yield a note if the file of a recorded pipeline has changed since its run started."""
    file, again = record.data["file"], "the run continues as recorded"
    if file is None:
        return
    try:
        now = loader.load(file)
    except UsageError as error:
        yield f"{file} can no longer be used ({str(error).partition(chr(10))[0]}); {again}"
        return
    texts = now.prompts.texts
    edited = any(texts.get(name, text) != text for name, text in record.data["templates"].items())
    if edited or _without_defaults(now.pipeline) != _without_defaults(record.pipeline):
        yield f"{file} or its templates were edited since; {again} (`--pipeline {file}` runs the edited version)"


def _without_defaults(pipeline: Pipeline) -> dict[str, Any]:
    """Return a pipeline's data without its defaults, which contain those of the settings."""
    return {key: value for key, value in pipeline.to_data().items() if key != "defaults"}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Return the stages whose own prompts or parameters changed, with the reason."""
    changed = {}
    edited = {name for name, text in new["templates"].items() if old["templates"].get(name, text) != text}
    for stage, said in new["pipeline"]["stages"].items():
        before = old["pipeline"]["stages"].get(stage)
        if before is None:
            changed[stage] = "it is new"
        elif before != said:
            keys = sorted(key for key in {*before, *said} if before.get(key) != said.get(key))
            changed[stage] = f"edited: {', '.join(keys)}"
        elif old["nested"].get(stage) != new["nested"].get(stage):
            changed[stage] = "the pipeline that it runs was edited"
        elif names := sorted(edited & _texts(said, new)):
            changed[stage] = f"its template was edited: {', '.join(names)}"
    if old["pipeline"].get("defaults") != new["pipeline"].get("defaults"):
        changed |= {stage: "`defaults` was edited" for stage in new["pipeline"]["stages"] if stage not in changed}
    return changed


def _texts(said: Mapping[str, Any], data: Mapping[str, Any]) -> set[str]:
    """Return the templates that a stage may use: those that it names, and those of its kind."""
    named = {value for value in said.values() if isinstance(value, str) and value in data["templates"]}
    return named | {name for name in data["templates"] if name.startswith(f"{said['kind']}/")}


def _order(record: Record) -> dict[str, set[str]]:
    """The stages in order, each with those that it depends on."""
    dataflow = record.loaded(Library([])).dataflow
    return {name: dataflow.wirings[name].before for name in dataflow.order}


def _calls(count: int) -> str:
    return f"{count} finished call{'s' * (count != 1)}"
