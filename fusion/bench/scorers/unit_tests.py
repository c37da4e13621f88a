"""Scorer of programs: the gold answer is Python tests, which run in the sandbox behind the code of an answer."""

import secrets
from pathlib import Path
from threading import Event
from typing import Any, Final

from fusion.bench.scorers.base import Answer, Score, Scorer
from fusion.core.config import SandboxTable
from fusion.core.errors import StageError, UsageError
from fusion.core.types import ProcessLimits
from fusion.sandbox.base import Command
from fusion.sandbox.probe import found
from fusion.stages.text.code import code_in
from fusion.stages.verification import harness

_LIMITS: Final = ProcessLimits(seconds=30.0)
_PROGRAM: Final = ("python3", "-I", "-X", "utf8", "harness.py")


class UnitTests(Scorer):
    """Runs the gold answer, Python tests, in the sandbox of the settings behind the code of an answer.

    An answer is right if no test raises. Its code is its longest code block, or all of it.
    """

    def __init__(self, sandbox: SandboxTable) -> None:
        self._sandbox = sandbox.model_copy(update={"python": "process"})  # a score is that of Python itself

    def score(self, answer: Answer, gold: Any) -> Score:
        if not isinstance(gold, str):
            raise UsageError("the gold answer of `unit_tests` is a text: Python tests of the code")
        code = code_in(answer.text)
        try:
            passed = self._passes(code, gold)
        except StageError as error:
            raise UsageError(f"`unit_tests` runs code in a sandbox: {error}") from error
        return Score(value=float(passed), answer=code.strip()[:500])

    def _passes(self, code: str, tests: str) -> bool:
        """Return True for code that passes; a program that ends before its last test writes no mark."""
        backend = found(self._sandbox)
        if not code.strip():
            return False
        mark = secrets.token_hex(16)
        files = {
            "solution.py": code,
            "tests.py": tests,
            "harness.py": Path(harness.__file__).read_text(encoding="utf-8"),
        }
        limits = self._sandbox.limits(_LIMITS)
        ended = backend.run(Command.of(_PROGRAM, files=files, stdin=f"{mark}\n", limits=limits), Event())
        return ended.ok and mark in ended.stdout.split("\n")
