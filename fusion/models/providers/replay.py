"""ReplayModel: replies from recorded outputs; prompts without a record fail."""

import asyncio
import functools
import gzip
import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from fusion.core.errors import UnrecordedError, UsageError, close_names
from fusion.core.paths import user_path
from fusion.core.types import Deltas, Message, Money, Reply, Request, Usage, Value
from fusion.models.base import Model, ModelInfo, Price
from fusion.models.profiles import family_of

PREFIX: Final = "replay:"
PRICES: Final = "prices.json"
_SUFFIXES: Final = (".jsonl", ".jsonl.xz", ".jsonl.gz")
_MILLION: Final = 1_000_000
_NEEDED: Final = ("text", "prompt_tokens", "completion_tokens")

Records = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Recorded replies by digest of the prompt, then by model."""


class Recorded(Value):
    """One recorded reply with its token counts, and its cost in dollars as billed, if that is on record."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cost: Money | None = None


class ReplayModel(Model):
    """A model of a recording: `replay:FILE#MODEL`, or `replay:FOLDER#MODEL` for all recordings of a folder.

    A recording is a file of JSON lines, plain or compressed (`.jsonl`, `.jsonl.xz`, `.jsonl.gz`). Each line holds a
    `prompt` and under `responses`, by model, `text`, `prompt_tokens`, `completion_tokens` and, if known, `cost` in
    dollars as billed. MODEL is a name there, or a unique prefix of one. The reply is looked up by the digest of the
    messages. A recorded prompt is a single user message, which the template `generate/pass-through` sends unchanged.
    All samples of a prompt get the same reply.

    A prompt without a record fails with UnrecordedError. A reply longer than the call's `max_tokens` is truncated in
    proportion to its length, and so is its recorded cost by tokens. A reply without a recorded cost is paid by
    `prices.json` beside the file, in dollars per million tokens; without that its cost is unknown.

    >>> ReplayModel("replay:recorded/gsm8k.jsonl.xz#gpt-4o-mini-2024-07-18").info.provider
    'replay'
    """

    def __init__(self, model_id: str) -> None:
        place, _, name = model_id.removeprefix(PREFIX).rpartition("#")
        if not place or not name:
            raise UsageError(f"{model_id!r} names no model of a recording; write it as {PREFIX}FILE#MODEL")
        path = user_path(place)
        self._place = place
        self._records = _recording(path)
        self._name = _named(name, {model for answers in self._records.values() for model in answers}, place)
        self._price = _prices(path if path.is_dir() else path.parent).get(self._name)
        own = [answers[self._name] for answers in self._records.values() if self._name in answers]
        self.info = ModelInfo(
            id=model_id,
            provider="replay",
            price=_bound(own) or self._price,
            price_source=_source(own, self._price),
            family=family_of(self._name),
            json_schema=True,
        )

    async def complete(self, request: Request, on_delta: Deltas | None = None) -> Reply:
        recorded = self._recorded(request)
        await asyncio.sleep(0)  # yields to other tasks
        text, cut = _within(request.max_tokens, recorded)
        if on_delta is not None:
            on_delta.add(text)
        usage = Usage(input=recorded.prompt_tokens, output=min(recorded.completion_tokens, request.max_tokens))
        return Reply(
            text=text,
            finish_reason="length" if cut else "stop",
            usage=usage,
            asked=self.info.id,
            served=self._name,
            cost=self._cost(recorded, usage),
            first_token=0.0 if on_delta is not None else None,
        )

    def _cost(self, recorded: Recorded, usage: Usage) -> Money | None:
        """Return the recorded cost, less that of tokens that are cut; else the cost by the price."""
        if recorded.cost is None:
            return None if self._price is None else self._price.of(usage)
        whole = Usage(input=recorded.prompt_tokens, output=recorded.completion_tokens)
        if usage.output == whole.output:
            return recorded.cost
        price = self._price or Price(input=Money(1), output=Money(1))
        return recorded.cost * price.of(usage) / (price.of(whole) or 1)

    def _recorded(self, request: Request) -> Recorded:
        answer = self._records.get(digest(request.messages), {}).get(self._name)
        if answer is None:
            raise UnrecordedError(
                f"{self._place!r} holds no reply of {self._name!r} to this prompt: "
                f"{request.messages[-1].content.strip()[:80]!r}. A recorded prompt is sent as it is by "
                "`prompt: generate/pass-through`",
                model=self.info.id,
            )
        return Recorded.model_validate(answer)


def recordings(place: str) -> tuple[Path, ...]:
    """Return the files of a recording: itself, or those of its folder. Raises UsageError if there are none."""
    path = user_path(place)
    return tuple(_files(path)) if path.is_dir() else (path,)


def recorded_models(place: str) -> tuple[str, ...]:
    """Return the names of the models of a recording, in order. Raises UsageError for an unreadable one."""
    return tuple(dict.fromkeys(model for answers in _recording(user_path(place)).values() for model in answers))


def digest(messages: Iterable[Message]) -> str:
    """Return the SHA-256 (hex) of messages, without the white space around each."""
    stripped = [[message.role, message.content.strip()] for message in messages]
    return hashlib.sha256(json.dumps(stripped).encode()).hexdigest()


def _within(limit: int, recorded: Recorded) -> tuple[str, bool]:
    """Return the text up to `limit` tokens, and True if it is truncated."""
    if recorded.completion_tokens <= limit:
        return recorded.text, False
    return recorded.text[: max(1, len(recorded.text) * limit // recorded.completion_tokens)], True


def _named(name: str, known: set[str], place: str) -> str:
    """Return the recorded model with this name or unique prefix. Raises UsageError for none or several."""
    begins = [model for model in known if model.startswith(name)]
    if name in known or len(begins) == 1:
        return name if name in known else begins[0]
    if begins:
        raise UsageError(f"{name!r} may be any of {', '.join(sorted(begins))} in {place!r}; give the whole name")
    raise UsageError(f"{place!r} holds no replies of {name!r}{close_names(name, known)}")


def _recording(path: Path) -> Records:
    """Read a recording, or all those of a folder. Raises UsageError for an unreadable one."""
    if not path.is_dir():
        return _of_file(path, _written(path))
    files = _files(path)
    return {at: answers for file in files for at, answers in _of_file(file, _written(file)).items()}


def _files(folder: Path) -> list[Path]:
    """Return the recordings of a folder. Raises UsageError without one."""
    files = [file for file in sorted(folder.iterdir()) if file.name.endswith(_SUFFIXES)]
    if not files:
        raise UsageError(f"no recording in {str(folder)!r}: expected a file of JSON lines, {', '.join(_SUFFIXES)}")
    return files


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise UsageError(f"cannot read the recording {str(path)!r}: {error.strerror}") from error


@functools.lru_cache(maxsize=16)
def _of_file(path: Path, written: int) -> Records:
    """Read the records of one file, cached by its time of modification."""
    records = {}
    try:
        with _opened(path) as lines:
            for number, line in enumerate(lines, start=1):
                row = _row(line, f"{path}:{number}")
                records[digest([Message(role="user", content=row["prompt"])])] = row["responses"]
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the recording {str(path)!r}: {error}") from error
    return records


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place}: invalid JSON: {error}") from error
    whole = isinstance(row, dict) and isinstance(row.get("prompt"), str) and isinstance(row.get("responses"), dict)
    if not whole or not all(_is_answer(answer) for answer in row["responses"].values()):
        raise UsageError(
            f"{place}: a record needs `prompt`, and `responses` with `text`, `prompt_tokens` and "
            "`completion_tokens` for each model"
        )
    return {
        "prompt": row["prompt"],
        "responses": {
            model: {**{key: answer[key] for key in _NEEDED}, **_billed(answer, f"{place}: `cost` of {model!r}")}
            for model, answer in row["responses"].items()
        },
    }


def _billed(answer: Mapping[str, Any], what: str) -> dict[str, Money]:
    """Return the cost of a reply by its key, if it has one. Raises UsageError for what is no amount of dollars."""
    given = answer.get("cost")
    if given is None:
        return {}
    try:
        cost = Money(str(given)) if isinstance(given, (int, float, str)) and not isinstance(given, bool) else None
    except ArithmeticError:
        cost = None
    if cost is None or not cost.is_finite() or cost < 0:
        raise UsageError(f"{what}: expected dollars as billed, 0 or more, such as 0.0012; got {given!r}")
    return {"cost": cost}


def _bound(answers: Sequence[Mapping[str, Any]]) -> Price | None:
    """Return a price at which no recorded reply costs less than was billed; None unless each has a cost."""
    if not all("cost" in answer for answer in answers):
        return None
    dearest: Money = max(
        answer["cost"] / max(1, answer["prompt_tokens"] + answer["completion_tokens"]) for answer in answers
    )
    return Price(input=dearest, output=dearest)


def _source(answers: Sequence[Mapping[str, Any]], price: Price | None) -> str:
    billed = sum("cost" in answer for answer in answers)
    listed = "unknown" if price is None else f"{PRICES} beside the recording"
    if not billed:
        return listed
    source = "the recording, as billed"
    return source if billed == len(answers) else f"{source}, for {billed} of {len(answers)} replies; else {listed}"


def _is_answer(answer: Any) -> bool:
    return (
        isinstance(answer, dict)
        and isinstance(answer.get("text"), str)
        and isinstance(answer.get("prompt_tokens"), int)
        and isinstance(answer.get("completion_tokens"), int)
    )


def _prices(folder: Path) -> dict[str, Price]:
    """Read the prices beside a recording: {"models": {NAME: {"input_usd_per_million_tokens": …, "output_…": …}}}."""
    path = folder / PRICES
    if not path.is_file():
        return {}
    try:
        return dict(_listed(json.loads(path.read_text("utf-8"), parse_float=str)))
    except (ValueError, ArithmeticError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{str(path)!r} holds no prices: {type(error).__name__}: {error}") from error


def _listed(data: Any) -> Iterator[tuple[str, Price]]:
    for model, entry in data["models"].items():
        given, answered = (Money(entry[f"{side}_usd_per_million_tokens"]) for side in ("input", "output"))
        yield model, Price(input=given / _MILLION, output=answered / _MILLION)
