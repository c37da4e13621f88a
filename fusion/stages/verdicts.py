"""Whether a verdict is the judge's own, or only repeated out of what is judged."""

import json
from typing import Any

from fusion.core.errors import BadResponseError
from fusion.core.types import as_text
from fusion.models.structured import values_in
from fusion.stages.context import Answer


def own_verdict(answer: Answer, judged: Any) -> Answer:
    """The answer, if its verdict is the judge's own.

    A reply in prose may quote a verdict that stands in what is judged, and what is read out of it is then the verdict
    of the one who is judged. Raises BadResponseError where that may be: the same JSON stands in what is judged, and
    the reply is more than that JSON.
    """
    if _alone(answer.text) or answer.data not in values_in(as_text(judged), dict):
        return answer
    raise BadResponseError(
        f"{answer.by!r} repeats a verdict that stands in what it was to judge, and gives none of its own",
        model=answer.by,
        text=answer.text,
    )


def _alone(text: str) -> bool:
    """True for a reply that is JSON and nothing else."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
