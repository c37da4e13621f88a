"""Cluster: a throw-away PostgreSQL of the machine's own binaries, for benchmarks and tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

USER: Final = "fusion"


class Cluster:
    """A server on a socket in a folder of its own, not started yet. `options` are given to it.

    As root, its programs run as user `postgres`.
    """

    def __init__(self, *options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fusion-postgres-"))
        self._options = ("-k", str(self.folder), "-c", "listen_addresses=''", *options)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        self._do("initdb", "-U", USER, "--auth=trust", "-E", "UTF8", "--no-locale", "--no-sync")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def url(self, database: str = "postgres", user: str = USER) -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def start(self) -> None:
        self._do("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", " ".join(self._options), "start")

    def stop(self, how: str = "fast") -> None:
        """Stop the server: `immediate` is a crash."""
        self._do("pg_ctl", "-w", "-m", how, "stop")

    def close(self) -> None:
        """Stop the server, and remove its files."""
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.folder)

    def _do(self, program: str, *words: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*user, str(_programs() / program), "-D", str(self.data), *words]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL)


def _programs() -> Path:
    """Return the folder of the server's programs, the newest of Debian's. Raises SystemExit if there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        raise SystemExit("PostgreSQL is not installed: apt-get install postgresql")
    return folders[-1]


@contextmanager
def cluster(*options: str) -> Iterator[Cluster]:
    """Run a server while this is entered."""
    made = Cluster(*options)
    try:
        made.start()
        yield made
    finally:
        made.close()
