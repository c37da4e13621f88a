"""Opening a store: what is made, and every reason why it cannot be."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusion.core.errors import StoreError
from fusion.store.open import open_store
from fusion.store.rows import RunFilter
from fusion.store.sqlite import migrations
from fusion.store.sqlite import open as opening
from tests.needs import missing
from tests.store.conformance import call, kept, started, work


def refused(path: Path | str, *says: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(path)
    for words in (str(path), *says):
        assert words in str(caught.value)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def change(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


def test_files_and_folders_that_are_made_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = kept(open_store(tmp_path / "a" / "b" / "runs.db"), started())
        lock = store.lock("r1")
    finally:
        os.umask(before)
    made = sorted((tmp_path / "a").rglob("*"))
    assert {path.name for path in made} == {
        "b",
        "runs.db",
        "runs.db-shm",
        "runs.db-wal",
        "runs.db.locks",
        "-opening",
        "r1",
    }
    assert {mode(path) for path in made if path.is_file()} == {0o600}
    assert {mode(path) for path in (tmp_path / "a", *made) if path.is_dir()} == {0o700}
    lock.release()
    store.close()


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    first = open_store(path)
    first.put(started(), *work())
    first.close()
    with closing(path) as again:
        assert again.call("r1", 1) == call()


@contextmanager
def closing(path: Path) -> Iterator[opening.Store]:
    store = open_store(path)
    try:
        yield store
    finally:
        store.close()


def test_a_path_of_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with closing(Path("~/runs.db")):
        assert (tmp_path / "runs.db").is_file()


# Places where no store can be.


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder", "runs.db")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file" / "runs.db", "cannot be made or written", "choose another place")


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database at all " * 100)
    refused(path, "is not a store, but some other file", "choose another place")
    assert path.read_text() == "not a database at all " * 100


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    change(path, "CREATE TABLE theirs (a)")
    before = path.read_bytes()
    refused(path, "of another program", "choose another place")
    assert path.read_bytes() == before


def test_a_store_of_a_newer_version_says_which(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    open_store(path).close()
    change(path, f"PRAGMA user_version = {migrations.NEWEST + 3}")
    refused(path, f"has version {migrations.NEWEST + 3}", f"up to {migrations.NEWEST}", "update Fusion")


@pytest.mark.parametrize("length", [50, 4096, 10_000])
def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path, length: int) -> None:
    path = tmp_path / "runs.db"
    open_store(path).close()
    with path.open("r+b") as file:
        file.truncate(length)
    refused(path, "choose another place")


def test_a_page_that_is_overwritten_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with closing(path) as store:
        kept(store, started(), *(row for number in range(1, 300) for row in work(number)))
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\x5a" * (path.stat().st_size - 4096 * 3))
    with pytest.raises(StoreError, match="damaged"), closing(path) as store:
        list(store.calls("r1"))


@pytest.fixture
def fixed(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files are read-only, for root too."""
    folder = tmp_path / "fixed"
    folder.mkdir()
    open_store(folder / "runs.db").close()
    names = [folder / "runs.db", folder]
    if os.geteuid():
        names[0].chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    if reason := missing("chattr"):
        pytest.skip(reason)
    if any(subprocess.run(["chattr", "+i", name], capture_output=True).returncode for name in names):
        subprocess.run(["chattr", "-i", *names], capture_output=True)
        pytest.skip("this file system knows no immutable files")
    yield folder
    subprocess.run(["chattr", "-i", *names], check=True)


def test_a_place_that_may_only_be_read_is_said(fixed: Path) -> None:
    refused(fixed / "runs.db", "allow writing", "choose another place")
    refused(fixed / "new.db", "cannot be made or written", "choose another place")


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs"])
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"none / ext4 rw 0 0\nserver:/x {tmp_path}/far\\040off {kind} rw 0 0\nnone {tmp_path}/far tmpfs rw\n"
    )
    monkeypatch.setattr(opening, "MOUNTS", mounts)
    refused(tmp_path / "far off" / "runs.db", kind, "choose a place on a disk of this machine", "--no-store")
    assert not (tmp_path / "far off").exists()
    with closing(tmp_path / "far" / "runs.db"), closing(tmp_path / "runs.db"):
        pass


def test_where_mounts_are_not_listed_every_place_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MOUNTS", tmp_path / "none")
    open_store(tmp_path / "runs.db").close()


# Versions.


@pytest.mark.parametrize("old", range(migrations.NEWEST + 1))
def test_a_store_of_any_older_version_is_brought_up_to_date(tmp_path: Path, old: int) -> None:
    """Tables are made as that version made them; from the first version on they hold rows."""
    path = tmp_path / "runs.db"
    connection = sqlite3.connect(path, isolation_level=None)
    migrations.migrate(connection, to=old)
    if old:
        connection.execute(
            "INSERT INTO runs (run_id, root, pipeline, profile, started, tags, content, fingerprint)"
            " VALUES ('old', 'old', 'plan', 'local', 1.0, '{\"a\": \"b\"}', 'full', 'f')"
        )
        connection.execute("INSERT INTO records (run, record) VALUES (1, '{\"x\":1}')")
    connection.close()
    with closing(path) as store:
        assert [row.run_id for row in store.runs(RunFilter())] == ["old"] * bool(old)
        assert store.record("old") == ({"x": 1} if old else None)
        assert kept(store, started(), call()).call("r1", 1) == call()
    assert version(path) == migrations.NEWEST


def version(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


OPENS = """
import sys
from fusion.store.open import open_store
from tests.store.conformance import kept, started, work
sys.stdin.readline()
store = open_store(sys.argv[1])
for number in range(1, 40):
    kept(store, started(sys.argv[2]), *work(number, sys.argv[2]))
store.close()
"""


def test_processes_that_open_a_new_store_at_once_all_write_to_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.db"
    racing = [
        subprocess.Popen([sys.executable, "-c", OPENS, path, f"r{n}"], stdin=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    for process in racing:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.close()
    assert [process.wait(timeout=60) for process in racing] == [0] * 4
    with closing(path) as store:
        assert [store.last_numbers(f"r{n}") for n in range(4)] == [(39, 0)] * 4
