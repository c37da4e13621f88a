"""What has changed between two records, stage by stage: what is used again, and what is made anew."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from fusion.core.errors import UsageError
from fusion.loading import Loader
from fusion.prompts.library import Library
from fusion.record import Record
from fusion.spec import Pipeline
from fusion.store.base import Store
from fusion.wiring import wire


def differences(old: Record, new: Record, store: Store, run_id: str) -> Iterator[str]:
    """For each stage of an edited pipeline: what of the old run it uses again, and what it makes anew and why."""
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
                yield f"{stage} runs again as far as {first!r} gives something else; {kept} can be of use"
        elif finished[stage]:
            yield f"{stage} is answered by run {run_id}: {_calls(finished[stage])}"


def since_then(record: Record, loader: Loader) -> Iterator[str]:
    """What is to be said where the file of a pipeline says something else now than when its run began."""
    file, again = record.data["file"], "the run goes on as it was begun"
    if file is None:
        return
    try:
        now = loader.load(file)
    except UsageError as error:
        yield f"{file} cannot be used any more ({str(error).partition(chr(10))[0]}); {again}"
        return
    texts = now.prompts.texts
    edited = any(texts.get(name, text) != text for name, text in record.data["templates"].items())
    if edited or _without_defaults(now.pipeline) != _without_defaults(record.pipeline):
        yield f"{file} or its templates were edited since; {again} (`--pipeline {file}` runs what they say now)"


def _without_defaults(pipeline: Pipeline) -> dict[str, Any]:
    """What a pipeline says, but for its defaults, to which those of the settings were added."""
    return {key: value for key, value in pipeline.to_data().items() if key != "defaults"}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """The stages that ask something else than before, whatever they read, and why."""
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
    """The templates that a stage may use: those that it names, and those of its kind."""
    named = {value for value in said.values() if isinstance(value, str) and value in data["templates"]}
    return named | {name for name in data["templates"] if name.startswith(f"{said['kind']}/")}


def _order(record: Record) -> dict[str, set[str]]:
    """The stages, each with those that it reads, before those that read it."""
    from graphlib import TopologicalSorter

    made = record.made(Library([]))
    wirings = wire(made.pipeline, made.prompts, schemas=made.schemas)
    reads = {
        name: {*wired.waits, *wired.when, *(flow.stage for flow in wired.flows.values()), *stage.needs}
        for name, stage in made.pipeline.stages.items()
        if (wired := wirings[name])
    }
    return {name: reads[name] for name in TopologicalSorter(reads).static_order()}


def _calls(count: int) -> str:
    return f"{count} finished call{'s' * (count != 1)}"
