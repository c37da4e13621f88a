"""Preview as text: the first call of each stage, and its bounds."""

from collections.abc import Iterator, Sequence

from fusion.core.types import Limits, Message
from fusion.quote.preview import Preview, PreviewedCall, PreviewedStage

_SHOWN_AT_MOST = 1200


def preview_lines(preview: Preview, given: str) -> list[str]:
    """Format every stage with models, bounds and first prompt; `given` is the pipeline as named by the user."""
    models = ", ".join(f"{role}={model}" for role, model in preview.roles.items()) or "no model is called"
    lines = [f"{preview.pipeline}: profile {preview.profile}; {models}"]
    for stage in preview.stages:
        lines += ["", *_stage_lines(stage, given)]
    lines += ["", *(f"Note: {note}" for note in preview.notes)] if preview.notes else []
    return [*lines, "", f"In all: {_sum(preview)}", f"Limits: {_limits(preview.limits)}"]


def message_lines(messages: Sequence[Message], *, most: int | None = None) -> list[str]:
    """Format messages, each under its role."""
    lines = []
    for message in messages:
        lines += [f"--- {message.role} ---", _cut("".join(map(str, message.parts)), most)]
    return lines


def call_words(call: PreviewedCall) -> str:
    """Describe a call: `work 1 by local/small (bulk): about 90 tokens in, at most 1,500 out`."""
    place = call.stage if call.item is None else f"{call.stage} {call.item + 1}"
    return f"{place} by {call.model} ({call.role}): about {call.tokens:,} tokens in, at most {call.max_tokens:,} out"


def _stage_lines(stage: PreviewedStage, pipeline: str) -> Iterator[str]:
    roles = ", ".join(f"{role}={model}" for role, model in stage.roles.items())
    yield f"{stage.name} ({stage.kind}){f': {roles}' if roles else ''}"
    yield f"  {_bounds(stage)}"
    if stage.when is not None:
        yield f"  only when {stage.when}"
    if stage.missing:
        yield from _missing_lines(stage, pipeline)
    elif stage.note:
        yield f"  no call: {stage.note}"
    for call in stage.calls[:1]:
        yield f"  {call_words(call)}"
        yield from (
            f"  {line}" for text in message_lines(call.messages, most=_SHOWN_AT_MOST) for line in text.split("\n")
        )


def _missing_lines(stage: PreviewedStage, pipeline: str) -> Iterator[str]:
    words = f"  depends on {', '.join(stage.missing)}, which a run makes first"
    if stage.within:
        yield words
        return
    yield f"{words}; to see its prompt anyway:"
    given = " ".join(f"--with {name}=@FILE" for name in stage.missing)
    yield f"  fusion render {pipeline} {stage.name} … {given}"


def _bounds(stage: PreviewedStage) -> str:
    items = "" if stage.items is None else f"at most {_counted(stage.items, 'item')}, "
    if stage.most_calls == 0:
        return f"{items}no call"
    calls = "number of calls depends on results" if stage.most_calls is None else _most(stage.most_calls)
    return f"{items}{calls}, each answered in at most {stage.max_tokens:,} tokens"


def _sum(preview: Preview) -> str:
    if preview.most_calls is None or preview.most_output is None:
        return "number of calls depends on results; `--budget calls=…` bounds it"
    known = sum(call.tokens for stage in preview.stages for call in stage.calls)
    return (
        f"{_most(preview.most_calls)}, retries not counted; at most {preview.most_output:,} tokens out; "
        f"the calls shown have about {known:,} tokens in"
    )


def _most(calls: int) -> str:
    return f"at most {_counted(calls, 'call')}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _limits(limits: Limits) -> str:
    given = limits.model_dump(exclude_none=True)
    return ", ".join(f"{name} {value}" for name, value in given.items()) or "none"


def _cut(text: str, most: int | None) -> str:
    if most is None or len(text) <= most:
        return text
    return f"{text[:most]}\n[{len(text) - most:,} more characters]"
