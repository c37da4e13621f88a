"""Answer to gates that the options of a command give."""

import json
from typing import Any, NamedTuple

from fusion.cli.arguments import text_of
from fusion.cli.options.runs import ApproveOptions
from fusion.client.gates import user
from fusion.core.errors import GateError, UsageError
from fusion.core.types import Gate, GateAnswer
from fusion.store.gates import answer_of


class GivenAnswer(NamedTuple):
    """Yes or no, with a text, data as JSON, or the content of a file, which is either."""

    yes: bool
    text: str | None
    data: str | None
    file: str | None
    by: str

    def to(self, gate: Gate) -> GateAnswer:
        """Return the answer to a gate. Raises GateError if it does not fit."""
        text, data = self.text, self.data
        if self.file is not None:
            text, data = (None, self.file) if gate.ask == "data" and self.yes else (self.file, None)
        value = None if data is None else from_json(data)
        if data is not None and value is None:
            raise GateError("`null` is no answer; give data that match the schema")
        return answer_of(gate, yes=self.yes, text=text, data=value, by=self.by, via="command")


def given_answer(options: ApproveOptions) -> GivenAnswer | None:
    """Return the answer that the options give; None if they give none. Raises UsageError for several."""
    words = (options.text, options.data, options.file)
    if options.yes is None and words == (None, None, None):
        return None
    if sum(one is not None for one in words) > 1:
        raise UsageError("--text, --data and --file are one answer each; give one of them")
    file = None if options.file is None else text_of("--file", options.file)
    return GivenAnswer(options.yes is not False, options.text, options.data, file, options.by or user())


def from_json(said: str) -> Any:
    """Return the value of JSON. Raises GateError."""
    try:
        return json.loads(said)
    except ValueError as error:
        raise GateError(f"{said[:60]!r} is not JSON: {error}") from error
