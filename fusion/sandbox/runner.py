"""Runner: a command behind one of the user's own, such as `docker run`, which holds it.

Files are in a new folder, which is the working directory and `{folder}` in the command. Fusion itself keeps the time
and the output; the rest is up to the runner.
"""

import os
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Final

from fusion.core.config import variable
from fusion.core.errors import StageError
from fusion.core.types import Finished
from fusion.sandbox.base import Backend, Command
from fusion.sandbox.process import Follower, signalled

_ENVIRONMENT: Final = (
    "PATH",
    "HOME",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "CONTAINER_HOST",
)
_STOP_SECONDS: Final = 30.0


class Runner(Backend):
    """Runs commands behind the words of `prefix`; after a stopped one, runs `stop`. `env` names further variables."""

    name = "runner"

    def __init__(self, prefix: Sequence[str], stop: Sequence[str] = (), env: Sequence[str] = ()) -> None:
        self._prefix = prefix
        self._after = stop
        self._names = (*_ENVIRONMENT, *env)

    @property
    def title(self) -> str:
        return f"runner {self._prefix[0]}"

    def run(self, command: Command, stop: Event) -> Finished:
        with tempfile.TemporaryDirectory(prefix="fusion-", ignore_cleanup_errors=True) as place:
            folder = Path(place)
            folder.chmod(0o755)
            _write(folder, command.files)
            words = _Words(command, folder)
            ended = self._followed([*words.filled(self._prefix), *command.argv], folder, command, stop)
            if self._after and (ended.stopped_by is not None or stop.is_set()):
                self._clean_up(words.filled(self._after), folder)
        return ended._replace(code=signalled(ended.code), by=self.name)

    def _followed(self, argv: Sequence[str], folder: Path, command: Command, stop: Event) -> Finished:
        try:
            process = subprocess.Popen(  # noqa: S603 - the runner of the user's own settings
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=self._environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise StageError(
                f"the runner {argv[0]!r} cannot be started: {error.strerror}; correct `[sandbox] runner`"
            ) from error
        with process:
            return Follower(process, command, stop).run()

    def _clean_up(self, argv: Sequence[str], folder: Path) -> None:
        """Run the command that ends what a killed runner may have left."""
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(  # noqa: S603 - as above
                argv, cwd=folder, env=self._environment(), capture_output=True, timeout=_STOP_SECONDS, check=False
            )

    def _environment(self) -> dict[str, str]:
        return {name: value for name in self._names if (value := variable(name)) is not None}


class _Words:
    """Fills in the placeholders of a runner's arguments for one command."""

    def __init__(self, command: Command, folder: Path) -> None:
        limits = command.limits
        self._values = {
            "folder": str(folder),
            "name": f"fusion-{uuid.uuid4().hex[:16]}",
            "seconds": f"{limits.seconds:g}",
            "memory": str(limits.memory),
            "disk": str(limits.disk),
            "processes": str(limits.processes),
        }

    def filled(self, arguments: Sequence[str]) -> list[str]:
        found = []
        for one in arguments:
            for name, value in self._values.items():
                one = one.replace(f"{{{name}}}", value)
            found.append(one)
        return found


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files into a new folder, readable for every user of the runner."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)
    for parent, _, _ in os.walk(folder):
        Path(parent).chmod(0o755)
