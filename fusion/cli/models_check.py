"""One tiny request to each of several models: who answers, how fast, and what it cost."""

from collections.abc import Sequence
from typing import NamedTuple

from fusion.cli.exits import FAILED, OK
from fusion.cli.views.lines import cost_words, reason, seconds
from fusion.client.client import Fusion
from fusion.client.handle import RunHandle
from fusion.core.config import Settings
from fusion.core.errors import UsageError
from fusion.core.result import Cost, Result
from fusion.pipeline.spec import Pipeline
from fusion.stages.fields import Choice
from fusion.stages.kinds.generate import Generate

_MAX_TOKENS = 500  # enough for a model that thinks before it says two letters
_ASK = Pipeline(
    name="check",
    stages={"answer": Generate(role=(Choice(use="asked"),), prompt="Answer with OK.", max_tokens=_MAX_TOKENS)},
    output="answer",
)


class Checked(NamedTuple):
    """A row for each model, what all of it cost, and how the command ends."""

    rows: Sequence[tuple[str, str, str]]
    cost: str
    exit_code: int


def check_models(models: Sequence[str], settings: Settings) -> Checked:
    """Ask every model at once, each by itself: none takes over for another."""
    fusions = {model: Fusion(profile="local", model=model, settings=settings) for model in models}
    try:
        runs = {model: _started(fusion) for model, fusion in fusions.items()}
        ended = {model: run.wait() if isinstance(run, RunHandle) else run for model, run in runs.items()}
    finally:
        for fusion in fusions.values():
            fusion.close()
    cost = sum((one.cost for one in ended.values() if isinstance(one, Result)), Cost())
    rows = [_row(model, one) for model, one in ended.items()]
    failed = sum(row[1] == "failed" for row in rows)
    words = f"{len(rows) - failed} of {len(rows)} answered; {cost_words(cost.usd, cost.unknown_calls)}"
    return Checked(rows, words, FAILED if failed else OK)


def _started(fusion: Fusion) -> RunHandle | UsageError:
    try:
        return fusion.start(pipeline=_ASK)
    except UsageError as error:
        return error


def _row(model: str, ended: Result | UsageError) -> tuple[str, str, str]:
    if isinstance(ended, UsageError):
        return model, "failed", f"{type(ended).__name__}: {ended}"
    if ended.error is not None and ended.status == "failed":
        return model, "failed", reason(ended.error)
    served = ended.models[0].served if ended.models else ""
    paid = cost_words(ended.cost.usd, ended.cost.unknown_calls)
    return model, "ok", f"{seconds(ended.seconds)}, {paid}" + (f", served by {served}" if served != model else "")
