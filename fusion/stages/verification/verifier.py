"""Verifier: the verdict on an answer, by the conditions, the run and the judge of a check."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusion.core.bounded import clock
from fusion.core.errors import StageError
from fusion.core.schema import array, closed_object, enum, string
from fusion.core.types import Finished, JsonSchema, as_text
from fusion.stages.answer import failed_checks, own_verdict
from fusion.stages.base import whole
from fusion.stages.context import Ask, StageContext, Variables
from fusion.stages.text.code import code_in
from fusion.stages.verification.log import log_of
from fusion.stages.verification.plain import plain
from fusion.stages.verification.spec import Check, Judging

_ISSUES: Final = array(closed_object({"quote": string(200), "problem": string(300)}), 5)
_SURE: Final[JsonSchema] = {"type": "number", "minimum": 0, "maximum": 1}
_VERDICT: Final = {"issues": _ISSUES, "verdict": enum(["accept", "revise"])}
_PROGRAM: Final = ("python3", "-I", "-X", "utf8", "harness.py")
_EARLY: Final = "the process ended before the last test: exit code 0 without a finished test run"


class Verdict(NamedTuple):
    """A verdict on an answer: its log for the writer, and its author: `checks`, `sandbox`, or the judge's model."""

    passed: bool
    log: str = ""
    by: str = "checks"
    confidence: float | None = None

    @property
    def summary(self) -> str:
        """The first line of the log, cut to 200 characters."""
        line = next((line for line in self.log.splitlines() if line.strip()), "no reason is given")
        return line if len(line) <= 200 else f"{line[:199]}…"


class _Run(NamedTuple):
    """A run in the sandbox: its command, files and standard input; `mark` is written once the last test passed.

    `plain` is a program without files that does the same, if there is one.
    """

    argv: tuple[str, ...]
    files: Mapping[str, str]
    stdin: str
    mark: str = ""
    plain: str | None = None


class Verifier:
    """Verifies answers in one run of a stage, by the check under a key."""

    def __init__(self, ctx: StageContext, check: Check, key: str = "check") -> None:
        self._ctx = ctx
        self._check = check
        self._key = key

    async def verdict(
        self, value: Any, variables: Variables, *, task: Any = "", item: int | None = None, step: str = "verdict"
    ) -> Verdict:
        """Return the verdict on a value. Raises StageError or ModelError for a check that cannot be made.

        `task` is the task that a judge is shown, and `step` names its call.
        """
        seen = {**variables, "value": value}
        if flaws := await failed_checks(self._ctx, self._check, value, variables, self._key):
            return Verdict(False, "\n".join(flaws))
        verdict = Verdict(True)
        if self._check.runs:
            verdict = await self._ran(value, seen, item)
        if verdict.passed and self._check.judge is not None:
            verdict = await self._judged(self._check.judge, value, {**seen, "task": task}, item, step)
        return verdict

    async def _ran(self, value: Any, variables: dict[str, Any], item: int | None) -> Verdict:
        """Return the verdict of a run in the sandbox, from the journal if it has ended before."""
        answer = as_text(value)
        code = await clock.run(lambda: code_in(answer, self._check.extract), size=len(answer))
        if not code.strip():
            return Verdict(False, "the answer has no code", "sandbox")
        return await self._finished(await self._prepared(code, {**variables, "code": code}), item)

    async def _prepared(self, code: str, variables: dict[str, Any]) -> _Run:
        check, text = self._check, self._ctx.inputs.text
        files = {name: await text(template, variables) for name, template in check.files.items()}
        stdin = "" if check.stdin is None else await text(check.stdin, variables)
        if check.command is not None:
            return _Run(check.command, files, code if check.stdin is None and not files else stdin)
        assert check.python is not None
        tests = await text(check.python, variables)
        own = {"solution.py": code, "tests.py": tests, "harness.py": _harness()}
        mark = hashlib.sha256(f"{self._ctx.seed} {code} {tests}".encode("utf-8", "surrogatepass")).hexdigest()
        size = len(code) + len(tests)
        alone = None if files or stdin else await clock.run(lambda: plain(code, tests, mark), size=size)
        return _Run(_PROGRAM, {**files, **own}, stdin, mark, alone)

    async def _finished(self, run: _Run, item: int | None) -> Verdict:
        """Return the verdict of a run. The same command has the same end: it is not run again."""
        stdin = f"{run.mark}\n{run.stdin}" if run.mark else run.stdin
        limits = self._check.limits
        finished = await self._ctx.sandbox.run(
            run.argv, files=run.files, stdin=stdin, limits=limits, item=item, plain=run.plain
        )
        passed, finished, early = _passed(finished, run.mark)
        return Verdict(passed, log_of(finished, limits, _EARLY if early else ""), "sandbox")

    async def _judged(
        self, judge: Judging, value: Any, variables: dict[str, Any], item: int | None, step: str
    ) -> Verdict:
        """Return the verdict of a judge; one that is only repeated out of the answer is none."""
        sure = judge.confidence is not None
        seen = {**variables, "criteria": judge.criteria, "confident": sure}
        schema = closed_object({**_VERDICT, **({"confidence": _SURE} if sure else {})})
        ask = Ask(judge.role, self._ctx.inputs.render(judge.prompt, seen), step, item=item, schema=schema)
        answer = own_verdict(whole(await self._ctx.models.call(ask)), value)
        return _read(answer.data, answer.by, judge.confidence)


def _read(said: Mapping[str, Any], by: str, wanted: float | None) -> Verdict:
    """Return the verdict in a judge's reply; one to accept with too little confidence does not pass."""
    confidence, accepts = said.get("confidence"), said["verdict"] == "accept"
    if accepts and (wanted is None or (confidence is not None and confidence >= wanted)):
        return Verdict(True, "", by, confidence)
    found = [f"{one['quote']!r}: {one['problem']}" if one["quote"] else one["problem"] for one in said["issues"]]
    if accepts:
        found.append(f"the judge states a confidence of {confidence:g} that it is right; {wanted:g} is needed")
    return Verdict(False, "\n".join(found) or "the judge names no issue", by, confidence)


def _passed(finished: Finished, mark: str) -> tuple[bool, Finished, bool]:
    """Return True for a process that passes, its end without the mark, and True for one that ended too early."""
    if not mark:
        return finished.ok, finished, False
    lines = finished.stdout.split("\n")
    if said := next((line for line in lines if line.startswith(f"{mark} ")), ""):
        raise StageError(f"the tests of the check cannot be read as Python: {said.removeprefix(mark).strip()}")
    marked = mark in lines
    plain = finished._replace(stdout="\n".join(line for line in lines if line != mark))
    return finished.ok and marked, plain, finished.ok and not marked


@cache
def _harness() -> str:
    """Return the program that runs tests."""
    return Path(__file__).with_name("harness.py").read_text(encoding="utf-8")
