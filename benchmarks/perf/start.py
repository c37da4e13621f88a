"""Start: user and system CPU of commands, each in a new process with cached bytecode.

Commands that call a model call a server on loopback, which answers at once: `fusion run` asks it once, a second run
with `--cache shared` and `fusion resume` are answered by the store alone. A bare interpreter is measured in turn with
the commands, for comparison between machines.

    python -m benchmarks.perf.start [--repeat 9] [--only run]
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.perf import server
from benchmarks.perf.figures import machine, spread

ROOT = Path(__file__).parents[2]
_MODEL = ["-m", "openai/gpt-5.5"]
_PROMPT = ["single", "What is the capital of Norway?"]


class Command(NamedTuple):
    """A command, its bar in seconds of CPU if it has one, and the calls that it makes."""

    arguments: tuple[str, ...]
    bar: float | None = None
    calls: int = 0


def _fusion(*words: str, bar: float | None = None, calls: int = 0) -> Command:
    return Command(("-m", "fusion", *words), bar, calls)


COMMANDS: dict[str, Command] = {
    "python": Command(("-c", "pass")),
    "import fusion": Command(("-c", "import fusion")),
    "--help": _fusion("--help", bar=0.35),
    "validate": _fusion("validate", "plan-execute-review", bar=0.6),
    "quote": _fusion("quote", *_PROMPT, *_MODEL),
    "render": _fusion("render", "single", "answer", "What is the capital of Norway?", *_MODEL),
    "run": _fusion("run", *_PROMPT, *_MODEL, bar=0.8, calls=1),
    "run again": _fusion("run", *_PROMPT, *_MODEL, "--cache", "shared", bar=1.0),
    "resume": _fusion("resume", "RUN", bar=1.0),
}
"""Commands by name. RUN stands for the id of a finished run."""


class Used(NamedTuple):
    """Seconds of CPU and of the clock that a command took, and seconds until its first request arrived."""

    cpu: float
    wall: float
    request: float | None


class Starter:
    """Starts commands one after another, with a store and settings of their own."""

    def __init__(self, folder: str, provider: "server.Provider") -> None:
        self._provider = provider
        self._env = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": f"{provider.root}/v1",
            "FUSION_STORE": f"{folder}/runs.db",
            "XDG_CONFIG_HOME": folder,
        }
        self._run = ""

    def use(self, command: Command) -> Used:
        """Run a command to its end. Raises AssertionError if it fails or makes other calls."""
        words = [self._run if word == "RUN" else word for word in command.arguments]
        before = self._provider.calls()
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        said = process.stdout.read().decode()
        process.stdout.close()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - began
        assert process.returncode == 0, said
        assert self._provider.calls() - before == command.calls, said
        arrived = self._provider.arrived() if command.calls else None
        return Used(used.ru_utime + used.ru_stime, wall, None if arrived is None else arrived - began)

    def warm(self) -> None:
        """Write the bytecode, and put a run and its reply into the store."""
        kept = _fusion("run", *_PROMPT, *_MODEL, "--cache", "shared", calls=1)
        self.use(kept)
        listed = [sys.executable, "-m", "fusion", "runs", "list", "--json"]
        found = subprocess.run(listed, cwd=ROOT, env=self._env, capture_output=True, text=True, check=True)
        self._run = found.stdout.partition('"run_id": "')[2].partition('"')[0]


@contextmanager
def starter() -> Iterator[Starter]:
    with TemporaryDirectory() as folder, server.running() as provider:
        made = Starter(folder, provider)
        made.warm()
        yield made


def measure(names: Sequence[str], repeat: int) -> Mapping[str, list[Used]]:
    """Run the commands in turn, as often as asked for."""
    with starter() as made:
        for name in names:
            made.use(COMMANDS[name])  # writes the bytecode
        used: dict[str, list[Used]] = {name: [] for name in names}
        for _ in range(repeat):
            for name in names:
                used[name].append(made.use(COMMANDS[name]))
        return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    given = parser.parse_args()
    print(machine())
    for name, used in measure(given.only, given.repeat).items():
        bar = COMMANDS[name].bar
        print(f"{name:<14} {spread([one.cpu for one in used])} s CPU{f'; bar {bar:g}' if bar else ''}")
        if COMMANDS[name].calls:
            print(f"{'':<14} {spread([one.request or 0 for one in used])} s until its request arrives; bar 1")
    print(machine())


if __name__ == "__main__":
    main()
