"""Algebra: compares two formulas in a separate process that can be killed."""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

from fusion.bench.scorers.math.latex import Tree, parse, parts
from fusion.core.errors import UsageError

SECONDS = 5.0
_START_SECONDS = 120.0


class Algebra:
    """Compares formulas. A comparison that exceeds `seconds` counts as not equal, and its process is killed.

    Text of a model is parsed by our own grammar and reaches sympy as a tree of numbers, symbols and known operations.
    It is never evaluated as code.
    """

    def __init__(self, *, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._known: dict[str, bool] = {}

    def equal(self, left: str, right: str) -> bool:
        """Return True for equal numbers, formulas or lists of them. Braces and bare commas make sets."""
        (outer, ones), (other_outer, others) = parts(left), parts(right)
        if outer != other_outer or len(ones) != len(others):
            return False
        if len(ones) == 1:
            return self._same(ones[0], others[0])
        if outer in ("", "{}"):
            return self._same_set(ones, others)
        return all(self._same(one, other) for one, other in zip(ones, others, strict=True))

    def close(self) -> None:
        """End the process, if one was started."""
        with self._lock:
            self._end()

    def _same_set(self, ones: list[str], others: list[str]) -> bool:
        left = list(others)
        for one in ones:
            match = next((other for other in left if self._same(one, other)), None)
            if match is None:
                return False
            left.remove(match)
        return True

    def _same(self, one: str, other: str) -> bool:
        if one == other:
            return True
        trees = [parse(_right_side(text)) for text in (one, other)]
        if trees[0] is None or trees[1] is None:
            return False
        if trees[0] == trees[1]:
            return True
        question = json.dumps(trees)
        with self._lock:
            if question not in self._known:
                self._known[question] = self._ask(trees)
            return self._known[question]

    def _ask(self, trees: list[Tree | None]) -> bool:
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(trees).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            self._end()
            return False
        line = self._line(process, self._seconds)
        if line is None:
            self._end()
        return line == "true"

    def _start(self) -> "subprocess.Popen[bytes]":
        file = Path(__file__).with_name("solver.py")
        environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
        process = subprocess.Popen(  # noqa: S603 - our own file, by the interpreter that runs us
            [sys.executable, "-P", str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._process = process
        if self._line(process, _START_SECONDS) != "ready":
            self._end()
            raise UsageError("the scorer `math` needs sympy; install it: pip install 'compound-fusion[bench]'")
        return process

    def _line(self, process: "subprocess.Popen[bytes]", seconds: float) -> str | None:
        """Return the next line of the process, or None after the timeout."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        return process.stdout.readline().decode().strip() or None if ready else None

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        process.wait()


def _right_side(text: str) -> str:
    """Return the right side of `x = …`."""
    left, sign, right = text.partition("=")
    return right if sign and len(left.strip()) <= 2 and "=" not in right else text
