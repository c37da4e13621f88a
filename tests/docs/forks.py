"""A process that has Fusion loaded, and forks for each command: a page's commands need not load it each anew.

The server is `python -m tests.docs.forks SOCKET`; the client is this file as a script: `forks.py SOCKET [WORDS]`.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def forking(folder: Path, root: Path) -> Iterator[list[str]]:
    """The words of a command that runs Fusion on scripted models, while the server lives."""
    path = str(folder / "forks")
    env = {**os.environ, "PYTHONPATH": str(root)}
    server = subprocess.Popen([sys.executable, "-m", "tests.docs.forks", path], env=env, stdout=subprocess.PIPE)
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == b"ready\n"
        yield [sys.executable, "-ISs", __file__, path]
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def ask(path: str, words: list[str]) -> int:
    """Have the server run these words here, with this process's streams; gives the exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        task = json.dumps({"words": words, "cwd": str(Path.cwd()), "env": dict(os.environ)}).encode()
        socket.send_fds(connection, [len(task).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(task)
        return int.from_bytes(connection.recv(1), "big")


def serve(path: str) -> None:
    """Fork for each connection until the process is ended; a command may start others."""
    import fusion.cli.session
    import fusion.client.client
    import fusion.quote.quote  # noqa: F401 - what most commands load
    from tests import answering

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.write(1, b"ready\n")
        while True:
            connection, _ = listening.accept()
            with connection:
                head, streams, _, _ = socket.recv_fds(connection, 8, 3)
                task = json.loads(_whole(connection, int.from_bytes(head, "big")))
                if os.fork() == 0:  # waits for the command, while the server takes the next
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    child = os.fork()
                    if child == 0:
                        os._exit(_run(answering.main, task, streams))
                    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255
                    connection.sendall(code.to_bytes(1, "big"))
                    os._exit(0)
                for stream in streams:
                    os.close(stream)


def _whole(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        parts += connection.recv(size - len(parts))
    return parts


def _run(main, task, streams) -> int:  # type: ignore[no-untyped-def]
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["env"])
    sys.argv = ["fusion", *task["words"]]
    sys.path[0] = task["cwd"]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    if __spec__ is not None:  # by its module name
        serve(sys.argv[1])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
