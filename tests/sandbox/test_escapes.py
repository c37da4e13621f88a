"""Programs that try to leave the sandbox, or to take more than their limits: none does, as root or another user."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fusion.core.types import Finished
from tests.sandbox.attempts import ATTEMPTS
from tests.sandbox.conftest import USERS, Boxed, limits, python, runner

pytestmark = pytest.mark.needs("bwrap")
KEY = "sk-never-to-be-seen-in-the-sandbox"
told: dict[str, Any] = {}
"""What there is to find outside."""
PROGRAM = Path(__file__).with_name("attempts.py")


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[dict[str, Any]]:
    """A machine with a secret: a key, a file, sockets, and a process of the same user."""
    os.environ["EXAMPLE_API_KEY"] = KEY
    folder = Path("/tmp", f"fusion-outside-{os.getpid()}")
    folder.mkdir(mode=0o777)
    secret = folder / "secret.txt"
    secret.write_text(KEY)
    secret.chmod(0o666)
    tcp, abstract, local = socket.socket(), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    abstract.bind(f"\0fusion-{os.getpid()}")
    local.bind(str(folder / "socket"))
    for one in (tcp, abstract, local):
        one.listen()
    other = {"user": 65534} if os.geteuid() == 0 else {}
    sleeper = subprocess.Popen(["sleep", "600"], cwd="/", **other)
    told.update(
        key=KEY,
        secret=str(secret),
        port=tcp.getsockname()[1],
        abstract=f"fusion-{os.getpid()}",
        socket=str(folder / "socket"),
        process=sleeper.pid,
    )
    yield told
    assert sleeper.poll() is None
    sleeper.kill()
    sleeper.wait()
    for one in (tcp, abstract, local):
        one.close()
    for path in (secret, folder / "socket"):
        path.unlink()
    folder.rmdir()
    del os.environ["EXAMPLE_API_KEY"]


@cache
def findings(user: str) -> dict[str, dict[str, Any]]:
    """What every attempt came to; all are made in one run."""
    ended = runner(user)(
        "python3", "-I", "-S", "attempts.py", files={"attempts.py": PROGRAM.read_text()}, stdin=json.dumps(told)
    )
    assert ended.ok, ended
    found: dict[str, dict[str, Any]] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", sorted(ATTEMPTS))
def test_nothing_outside_is_reached(name: str, user: str) -> None:
    found = findings(user)[name]
    assert found["reached"] is None
    assert found["held"]


# Limits.


def timed(boxed: Boxed, *argv: str, seconds: float = 15.0, **more: Any) -> Finished:
    """The end of a command, which comes within some seconds."""
    begun = time.monotonic()
    ended = boxed(*argv, **more)
    assert time.monotonic() - begun < seconds
    return ended


def test_a_fork_bomb_ends(boxed: Boxed) -> None:
    bomb = "import os\nwhile 1:\n  try: os.fork()\n  except OSError as error: os.write(2, str(error).encode()); break"
    assert "temporarily unavailable" in timed(boxed, *python(bomb)).stderr


def test_a_bomb_that_never_gives_up_is_stopped_by_the_clock(boxed: Boxed) -> None:
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    assert timed(boxed, *python(bomb), limits=limits(seconds=0.5)).stopped_by == "seconds"


def test_threads_count_as_processes(boxed: Boxed) -> None:
    threads = "from threading import *\nfor _ in range(99): Thread(target=Event().wait, daemon=True).start()"
    assert "can't start new thread" in timed(boxed, *python(threads)).stderr


def test_memory_of_a_process_ends(boxed: Boxed) -> None:
    assert "MemoryError" in timed(boxed, *python("x = b'a' * 10**9")).stderr


@pytest.mark.parametrize(
    "code",
    [
        "import os, time\nfor _ in range(8):\n  if os.fork() == 0: x = b'a' * 10**8; time.sleep(30)\ntime.sleep(30)",
        "import mmap\nx = [mmap.mmap(-1, 10**8) for _ in range(8)]\nfor y in x: y.write(b'a' * 10**8)\nwhile 1: pass",
    ],
    ids=["of many processes", "shared"],
)
def test_memory_of_all_processes_ends(boxed: Boxed, code: str) -> None:
    assert timed(boxed, *python(code)).stopped_by == "memory"


@pytest.mark.parametrize("folder", ["/tmp", "/tmp/work", "/dev/shm"])
def test_the_disk_ends(boxed: Boxed, folder: str) -> None:
    fill = f"import os\nfor n in range(99):\n  with open(f'{folder}/{{n}}', 'wb') as file: file.write(b'x' * 10**6)"
    assert "No space left" in timed(boxed, *python(fill)).stderr


def test_a_file_of_any_size_ends(boxed: Boxed) -> None:
    assert "File too large" in timed(boxed, *python("open('x', 'wb').truncate(10**12)")).stderr


def test_many_empty_files_end(boxed: Boxed) -> None:
    many = "n = 0\nwhile True:\n  n += 1\n  open(f'{n}', 'w').close()"
    assert timed(boxed, *python(many)).stopped_by == "disk"


def test_deep_folders_end(boxed: Boxed) -> None:
    deep = "import os\nwhile True:\n  os.mkdir('d')\n  os.chdir('d')"
    assert timed(boxed, *python(deep)).stopped_by == "disk"


@pytest.mark.parametrize("stream", [1, 2])
def test_a_gigabyte_of_output_ends(boxed: Boxed, stream: int) -> None:
    ended = timed(boxed, *python(f"import os\nfor _ in range(1000): os.write({stream}, b'x' * 10**6)"))
    assert ended.stopped_by == "output"
    assert len(ended.stdout) + len(ended.stderr) == 20_000


def test_output_beyond_its_limit_stops_a_command_that_has_ended_too(boxed: Boxed) -> None:
    ended = timed(boxed, *python("print('x' * 25_000)"))
    assert (ended.stopped_by, len(ended.stdout)) == ("output", 20_000)


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal, time\nfor n in (1, 2, 3, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)",
        "import os, time\nfor n in (0, 1, 2): os.close(n)\ntime.sleep(60)",
        "import os, time\nos.setsid() if os.fork() == 0 else None\ntime.sleep(60)",
        "import os\nos.kill(os.getpid(), 19)",
        "input()\nimport os, time\nos.dup2(1, 0)\ntime.sleep(60)",
    ],
    ids=["spins", "sleeps", "ignores signals", "closes its streams", "forks off", "stops itself", "reads, sleeps"],
)
def test_the_clock_ends_what_does_not_end(boxed: Boxed, code: str) -> None:
    ended = timed(boxed, *python(code), limits=limits(seconds=0.5), stdin="a line\n")
    assert (ended.stopped_by, ended.reason) == ("seconds", "stopped: it took too long")
    assert ended.code < 0


def test_processes_in_the_background_die_with_the_command(boxed: Boxed) -> None:
    mark = f"mark-{os.getpid()}"
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "  os.setsid()\n"
        "  if os.fork() == 0:\n"
        f"    os.execv('/usr/bin/python3', ['{mark}', '-I', '-S', '-c', 'import time; time.sleep(60)'])\n"
        "  os._exit(0)\n"
        "os.wait()\n"
        "time.sleep(0.2)\n"
    )
    assert timed(boxed, *python(code)).ok
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)]
    assert not [one for one in running if one.startswith(mark.encode())]


def readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def test_a_background_process_that_holds_the_output_delays_nothing(boxed: Boxed) -> None:
    ended = timed(boxed, "sh", "-c", "sleep 60 & echo done", seconds=10)
    assert (ended.ok, ended.stdout) == (True, "done\n")


def test_bytes_that_are_no_text_come_as_text(boxed: Boxed) -> None:
    ended = timed(boxed, *python("import os; os.write(1, bytes(range(256)))"))
    assert ended.ok
    assert ended.stdout[:3] == "\0\x01\x02"
    assert "�" in ended.stdout


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
def test_input_of_any_size_arrives_once(boxed: Boxed, size: int) -> None:
    """It comes through a pipe: a program cannot go back to what was read from it before."""
    code = "import sys\nprint(len(sys.stdin.read()), sys.stdin.buffer.seekable())"
    assert timed(boxed, *python(code), stdin="x" * size).stdout == f"{size} False\n"


def test_input_that_is_not_read_delays_nothing(boxed: Boxed) -> None:
    assert timed(boxed, *python("print('done')"), stdin="x" * 3_000_000).stdout == "done\n"
    half = "import sys, os\nsys.stdin.read(70_000)\nos.close(0)\nprint('half')"
    assert timed(boxed, *python(half), stdin="x" * 3_000_000).stdout == "half\n"


def test_a_crash_is_its_signal(boxed: Boxed) -> None:
    ended = timed(boxed, *python("import os; os.abort()"))
    assert (ended.code, ended.reason) == (-6, "killed by signal 6")
