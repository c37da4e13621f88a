"""Outcome: deliver the answer of a run, then report its failures and receipt."""

import sys

from fusion.cli.exits import BUG, Ending
from fusion.cli.terminal import complain, ended, width_of, write
from fusion.cli.views.answer import AnswerFile, StreamedAnswer
from fusion.cli.views.lines import folded_lines, item_names, reason
from fusion.cli.views.receipt import receipt_lines
from fusion.client.handle import RunHandle
from fusion.core.errors import UsageError
from fusion.core.result import Result
from fusion.core.types import Failure

_NAMED_AT_MOST = 10


class Outcome:
    """A Result and its delivery. Errors of writing are kept in `faults`, so that they do not hide the rest."""

    def __init__(self, result: Result, handle: RunHandle, *, json: bool, quiet: bool) -> None:
        self.faults: list[Exception] = []
        self.afterwards: str | None = None
        self._result = result
        self._handle = handle
        self._json = json
        self._quiet = quiet

    def deliver(self, file: AnswerFile | None, streamed: StreamedAnswer | None, *, elsewhere: bool) -> None:
        """Write the answer, or the result as JSON, to standard output or the file."""
        failed = self._result.status in ("failed", "waiting")
        try:
            if self._json:
                write(f"{self._result.model_dump_json(indent=2)}\n")
            elif streamed is not None:
                streamed.finish(None if failed else self._result.text)
            elif not (elsewhere or failed):
                self._print()
        except BrokenPipeError:
            pass  # the reader has closed the pipe
        except UsageError as error:
            self.faults.append(error)
        if file is not None and not failed:
            self._into(file)

    def report(self, ending: Ending) -> None:
        """Print failures, the receipt unless quiet, and the command to go on. Raises the first fault at the end."""
        self._say_failed(ending)
        if not self._quiet:
            complain("")
            for line in receipt_lines(self._result, width=width_of(sys.stderr)):
                complain(line)
        if self.afterwards is not None:
            complain(self.afterwards)
        for fault in self.faults:
            raise fault

    def _print(self) -> None:
        write(ended(self._result.text))

    def _into(self, file: AnswerFile) -> None:
        try:
            file.write([ended(self._result.text)])
        except UsageError as error:
            self.faults.append(error)
            if not self._json:
                self._print()  # the answer is paid: do not lose it

    def _say_failed(self, ending: Ending) -> None:
        error = self._result.error
        if self._result.status == "waiting":
            gates = len(self._result.waiting)
            complain(f"fusion: the run waits for a person{f' at {gates} gates' if gates > 1 else ''}")
            return
        if error is None:
            if self._result.status == "partial":
                self._say_partial()
            return
        ending.traceback(self._handle.cause)
        if self._handle.exit_code == BUG:
            ending.bug(reason(error))
        elif error.reason == "Interrupted":
            complain("fusion: interrupted")
        else:
            complain(f"fusion: the run failed{self._where(error)}: {reason(error)}")
        if not self._quiet:
            complain(f"finished until then: {self._done()}")

    def _where(self, error: Failure) -> str:
        """Name the stage that failed the run, if any."""
        stage = next((part.stage for part in self._result.failed if part.failure == error), None)
        return "" if stage is None else f" in {stage!r}"

    def _say_partial(self) -> None:
        """Name the parts that the answer lacks, equal faults on one line."""
        lines = folded_lines(self._result.failed, item_names(self._result))
        if len(lines) == 1:
            complain(f"fusion: the answer is partial: {lines[0]}")
            return
        lost = f"{len(self._result.failed):,} parts failed" if lines else "the budget ended the work early"
        complain(f"fusion: the answer is partial: {lost}")
        for line in lines[:_NAMED_AT_MOST]:
            complain(f"  {line}")
        if len(lines) > _NAMED_AT_MOST:
            complain(f"  and {len(lines) - _NAMED_AT_MOST} other faults; `fusion runs show` lists them")

    def _done(self) -> str:
        """Name the finished stages and their usable items."""
        done = []
        for name, stage in self._result.stages.items():
            usable = sum(item.ok for item in stage.items)
            if usable:
                done.append(f"{name} ({usable} item{'s' * (usable != 1)})")
            elif stage.status == "ok":
                done.append(name)
        hint = "" if self._json or not done else "; `--json` prints it"
        return (", ".join(done) or "nothing") + hint
