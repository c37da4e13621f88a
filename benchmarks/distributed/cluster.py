"""Cluster: a throw-away PostgreSQL of the machine's own binaries."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_BINARIES: Final = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Cluster:
    """A cluster in a folder, reached by its socket. `options` are given to the server."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options

    @property
    def url(self) -> str:
        return f"postgresql://fusion@/postgres?host={self._folder}"

    @property
    def pid(self) -> int:
        return int((self._folder / "data" / "postmaster.pid").read_text().split()[0])

    def create(self) -> None:
        self._do("initdb", "-U", "fusion", "--auth=trust", "-E", "UTF8", "--no-locale", "--no-sync")
        self.start()

    def start(self) -> None:
        options = " ".join(("-k", str(self._folder), "-c", "listen_addresses=''", *self._options))
        self._do("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self._do("pg_ctl", "-w", "-m", mode, "stop")

    def _do(self, program: str, *words: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*user, str(_BINARIES[-1] / program), "-D", str(self._folder / "data"), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def cluster(*options: str) -> Iterator[Cluster]:
    """Run a cluster while this is entered."""
    folder = Path(tempfile.mkdtemp(prefix="fusion-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    made = Cluster(folder, *options)
    try:
        made.create()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
