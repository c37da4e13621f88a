"""Gates: questions of a run to a person, and their answers."""

import hashlib
import json
import re
from datetime import datetime
from typing import Any, Final, Literal

from fusion.core.types.value import JsonSchema, Value

AskedFor = Literal["approve", "edit", "data"]
"""Form of an answer: yes or no; the same or an edited text; or data that match a schema. Each may be a no."""
Verdict = Literal["approved", "edited", "answered", "rejected"]
Via = Literal["terminal", "command", "python", "http", "page", "timeout"]
"""Way by which an answer came; `timeout` is the default at a deadline."""
REJECT: Final = "reject"
"""The default of a gate that is a no."""
_OPEN: Final = "gate-open@"
_ANSWER: Final = "gate@"
_NAME: Final = re.compile(rf"(?P<before>(?:\d+\.)*)(?P<of>{_OPEN}|{_ANSWER})[0-9a-f]+(?: (?P<own>.+))?")
_KNOWN: Final = 16
"""Characters of a digest in names."""


class GateQuestion(Value):
    """A question of a stage to a person. `text` is what is shown.

    With `is_data` the text is JSON, and so is an edited one. `timeout` is in seconds; `default` holds after it: data,
    "approve" or "reject". `name` tells several questions of one stage apart, such as those about calls of tools.
    """

    text: str
    ask: AskedFor = "approve"
    title: str = ""
    who: str = ""
    json_schema: JsonSchema | None = None
    is_data: bool = False
    timeout: float | None = None
    default: Any = None
    name: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what is shown and asked for: another text is another gate."""
        shown = json.dumps([self.text, self.ask, self.json_schema, self.is_data], sort_keys=True)
        return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def decision(self) -> str:
        """The name of the decision that opens the gate."""
        return f"{_OPEN}{self.digest[:_KNOWN]}{self.name and ' '}{self.name}"


class Gate(Value):
    """An open question of a run to a person.

    `stage` is a path, `item` an index, `name` that of the decision which opened it. `since` and `deadline` are in
    UTC; at the deadline `default` becomes the answer. `digest` is that of its question.
    """

    stage: str
    item: int | None = None
    name: str
    digest: str
    title: str = ""
    who: str = ""
    ask: AskedFor = "approve"
    json_schema: JsonSchema | None = None
    text: str = ""
    is_data: bool = False
    since: datetime
    deadline: datetime | None = None
    default: Any = None

    @property
    def place(self) -> str:
        """The name of the gate within its run: its stage, the number of its item from 1, and the name of its own."""
        found = _NAME.fullmatch(self.name)
        before, own = ("", "") if found is None else (found["before"].rstrip(".").replace(".", "/"), found["own"])
        item = "" if self.item is None else str(self.item + 1)
        return "/".join(part for part in (self.stage, before, item, own) if part)

    @property
    def answer_name(self) -> str:
        """The name of the decision that answers it."""
        return answer_name(self.name)


class GateAnswer(Value):
    """The answer of a person to a gate. `text` is an edited text, or the reason of a no; `at` is in UTC."""

    answer: Verdict
    text: str | None = None
    data: Any = None
    by: str
    at: datetime
    via: Via = "command"

    def __str__(self) -> str:
        how = "at its deadline" if self.via == "timeout" else f"by {self.by}"
        return f"{self.answer} {how} at {self.at:%Y-%m-%d %H:%M:%S} UTC"


class AnsweredGate(Value):
    """A gate of a run with its answer; None while it is open."""

    gate: Gate
    answer: GateAnswer | None = None


def opens_gate(decision: str) -> bool:
    """Return True for the name of a decision that opens a gate."""
    return _is(decision, _OPEN)


def answers_gate(decision: str) -> bool:
    """Return True for the name of a decision that answers a gate."""
    return _is(decision, _ANSWER)


def answer_name(opening: str) -> str:
    """Return the name of the decision that answers a gate, given that of the one which opens it."""
    return opening.replace(_OPEN, _ANSWER, 1)


def _is(decision: str, of: str) -> bool:
    found = _NAME.fullmatch(decision)
    return found is not None and found["of"] == of
