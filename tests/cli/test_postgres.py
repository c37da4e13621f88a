"""The command line on a store in PostgreSQL: every command, the ends of runs that lose it, and its secrets."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusion import Fusion, Pipeline, RunFailed, ScriptedModel
from fusion.core.config import Settings
from fusion.core.errors import StoreLostError
from fusion.store.open import open_store
from tests.cli.conftest import MANY, Command, start
from tests.cli.scripted import on_scripted_models
from tests.conftest import own_settings
from tests.postgres import GUARDED, PASSWORD, USER, Cluster, execute, terminate

needs_server = pytest.mark.needs("initdb")

LETTER = """
inputs: {task: What to write.}
stages:
  draft: {kind: generate, role: bulk, prompt: "Write: {{ inputs.task }}"}
  approval: {kind: gate, show: draft, who: the office}
  sent: {kind: generate, role: bulk, prompt: "Send: {{ approval.text }}"}
output: sent
"""
MODEL = ("-m", "scripted/echo")


@pytest.fixture
def fusion(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """`fusion` with these words, in a folder with pipelines and rows."""
    on_scripted_models(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "many.yaml").write_text(MANY)
    (tmp_path / "letter.yaml").write_text(LETTER)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"words": word}) + "\n" for word in ("a", "b", "c")))
    return command


def run_id_in(text: str) -> str:
    found = re.search(r"\d{8}-\d{6}-[0-9a-f]{6}", text)
    assert found is not None, text
    return found[0]


# Every command.


@needs_server
@pytest.mark.parametrize("door", ["option", "variable", "settings"])
def test_a_store_is_named_at_every_door(
    fusion: Command, database: str, door: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    more: tuple[str, ...] = ()
    monkeypatch.delenv("FUSION_STORE")
    if door == "variable":
        monkeypatch.setenv("FUSION_STORE", database)
    elif door == "settings":
        own_settings(tmp_path, monkeypatch)(f"[store]\npath = {json.dumps(database)}\n")
    else:
        more = ("--store", database)
    done = fusion("run", "many.yaml", "a,b", *MODEL, *more)
    assert (done.code, done.out) == (0, "do a\n\ndo b\n")
    run_id = run_id_in(done.err)
    listed = fusion("runs", "list", "--json", *more)
    assert [one["run_id"] for one in json.loads(listed.out)] == [run_id]
    assert execute(database, "SELECT run_id, status FROM fusion.runs") == [(run_id, "ok")]


@needs_server
def test_runs_are_shown_resumed_exported_and_removed(fusion: Command, database: str) -> None:
    at = ("--store", database)
    failed = fusion("run", "many.yaml", "a,bad", "-m", "scripted/torn", *at)
    assert failed.code == 3
    run_id = run_id_in(failed.err)
    shown = fusion("runs", "show", run_id[:12], *at)
    assert (shown.code, "no such thing" in shown.out) == (0, True)
    assert fusion("resume", run_id, *at).code == 3
    assert fusion("runs", "export", run_id, "-o", "run.json", *at).code == 0
    assert fusion("runs", "remove", run_id, *at).code == 0
    assert execute(database, "SELECT count(*) FROM fusion.calls") == [(0,)]


@needs_server
def test_a_map_goes_on_from_the_database(fusion: Command, database: str) -> None:
    words = ("map", "many.yaml", "in.jsonl", *MODEL, "-o", "out.jsonl", "--store", database)
    first, again = fusion(*words), fusion(*words)
    assert (first.code, again.code) == (0, 0)
    assert "3 rows: 3 ok" in first.err
    assert "kept" in again.err
    assert execute(database, "SELECT count(*) FROM fusion.calls") == [(3,)]


@needs_server
def test_a_gate_is_answered_over_the_database(fusion: Command, database: str) -> None:
    at = ("--store", database)
    waiting = fusion("run", "letter.yaml", "a letter", *MODEL, *at, stdin=b"")
    assert waiting.code == 6
    done = fusion("approve", run_id_in(waiting.err), "--yes", *at, stdin=b"")
    assert (done.code, done.out) == (0, "Send: Write: a letter\n"), done


@needs_server
def test_the_doctor_looks_at_the_database(fusion: Command, bare: str) -> None:
    before = fusion("doctor", "--store", bare)
    assert "not made yet" in before.out
    assert execute(bare, "SELECT to_regnamespace('fusion')::text") == [(None,)]
    open_store(bare).close()
    after = fusion("doctor", "--store", bare)
    assert re.search(r"store .*postgresql://fusion@/.* MB, version \d+, content full", after.out)


@needs_server
def test_python_keeps_runs_in_the_database(database: str) -> None:
    with Fusion(profile="local", model=ScriptedModel(["an answer"]), store=database) as fusion:
        result = fusion.complete("ask", pipeline="single")
        assert fusion.runs.show(result.run_id).run.status == "ok"
    with Fusion(profile="local", store=database) as again:
        assert again.resume(result.run_id).text == "an answer"


# Stores that cannot be opened.


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u:s3cret@127.0.0.1:9/db", "start the server"),
        ("postgresql://u:s3cret@no-such-host.invalid/db", "correct the host"),
        ("postgresql://u:s3cret%zz@h/db", "cannot be read"),
        ("postgres://u:s3cret@/db?host=/nowhere", "start the server"),
        ("postgresql://u@127.0.0.1:9/db?password=s3cret", "start the server"),
    ],
)
@pytest.mark.parametrize("words", [("run", "many.yaml", "a", *MODEL), ("runs", "list"), ("doctor",)])
def test_a_database_that_is_not_there_ends_a_command(
    fusion: Command, url: str, says: str, words: tuple[str, ...]
) -> None:
    done = fusion(*words, "--store", url)
    assert done.code == 2
    assert says in done.out + done.err
    assert "cret" not in done.out + done.err
    assert "Traceback" not in done.err


def test_without_the_driver_the_extra_is_named(fusion: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.store.open.find_spec", lambda name: None)
    done = fusion("runs", "list", "--store", "postgresql://h/db")
    assert (done.code, done.err) == (
        2,
        "fusion: a store in PostgreSQL needs the extra postgres: pip install 'compound-fusion[postgres]'\n",
    )


# Runs that lose the database.


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits for what another process does."""

    def wait(holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.02)

    return wait


@needs_server
def test_a_run_that_loses_its_lock_ends_and_can_be_resumed(
    fusion: Command, database: str, tmp_path: Path, until: Callable[[Callable[[], bool]], None]
) -> None:
    words = ("run", "many.yaml", "a,slow,b", "-m", "scripted/slow", "--store", database)
    running = start(*words, module="tests.cli.scripted", cwd=tmp_path)
    until(lambda: _finished(database) == 2)
    assert terminate(database, "locks") == 1
    out, err = running.communicate(timeout=30)
    said = err.decode()
    assert (running.returncode, out) == (3, b"")
    assert "the connection that holds its locks was cut" in said
    assert "Traceback" not in said
    run_id = run_id_in(said)
    assert f"fusion resume {run_id} --store" in said
    (listed,) = json.loads(fusion("runs", "list", "--json", "--store", database).out)
    assert listed["status"] == "died"
    assert _finished(database) == 2


def _finished(url: str) -> int:
    """The finished calls in a database; 0 before it has a table of them."""
    if execute(url, "SELECT to_regclass('fusion.calls')::text") == [(None,)]:
        return 0
    return int(execute(url, "SELECT count(*) FROM fusion.calls WHERE state = 'finished'")[0][0])


@needs_server
@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_server_that_is_restarted_in_the_middle_of_a_run_costs_no_finished_call(
    how: str, until: Callable[[Callable[[], bool]], None]
) -> None:
    asked: list[str] = []
    hold = Held()

    async def script(request: object) -> str:
        text = str(request.messages[-1].content)
        asked.append(text)
        if "do c" in text:
            await hold.wait()
        return f"done: {text}"

    cluster = Cluster("-c full_page_writes=off" if how == "immediate" else "-c fsync=off")
    try:
        url = cluster.database()
        with Fusion(profile="local", model=ScriptedModel(script), store=url) as fusion:
            handle = fusion.start("a,b,c", pipeline=_many())
            until(lambda: _finished(url) == 2)
            cluster.stop(how)
            result = handle.wait()
            assert result.status == "failed"
            assert result.error is not None
            assert result.error.reason == StoreLostError.__name__
            assert handle.exit_code == 3
            cluster.start()
            hold.release()
            again = fusion.resume(handle.run_id)
            assert again.text == "done: do a\n\ndone: do b\n\ndone: do c"
            assert sorted(asked) == ["do a", "do b", "do c", "do c"]
            other = fusion.complete("x", pipeline=_many())
            assert other.text == "done: do x"
    finally:
        cluster.close()


class Held:
    """Holds calls until it is released."""

    def __init__(self) -> None:
        self._open = False

    def release(self) -> None:
        self._open = True

    async def wait(self) -> None:
        while not self._open:
            await asyncio.sleep(0.01)


def _many() -> Pipeline:
    return Pipeline.from_yaml(MANY, file="many.yaml")


@needs_server
def test_a_run_that_cannot_be_written_any_more_ends(database: str) -> None:
    def break_it(request: object) -> str:
        execute(database, "ALTER TABLE fusion.attempts RENAME TO gone")
        return "an answer"

    with Fusion(profile="local", model=ScriptedModel(break_it), store=database) as fusion:
        with pytest.raises(RunFailed) as failed:
            fusion.complete("ask", pipeline="single")
        assert failed.value.result.error is not None
        assert failed.value.result.error.reason == StoreLostError.__name__
        execute(database, "ALTER TABLE fusion.gone RENAME TO attempts")
    with Fusion(profile="local", model=ScriptedModel(["again"]), store=database) as fusion:
        assert fusion.resume(failed.value.result.run_id).status == "ok"


# Secrets.


@pytest.fixture
def guarded(cluster: Cluster, bare: str) -> Iterator[str]:
    """The URL of a database with the password of its user in it."""
    from urllib.parse import quote

    name = bare.split("/")[3].split("?")[0]
    execute(bare, f"GRANT CREATE ON DATABASE {name} TO {GUARDED}")
    yield bare.replace(f"//{USER}@", f"//{GUARDED}:{quote(PASSWORD, safe='')}@")
    execute(bare, f"DROP OWNED BY {GUARDED}")


@needs_server
def test_a_password_is_in_nothing_that_is_said_or_kept(
    fusion: Command, guarded: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    at = ("--store", guarded)
    said = [
        fusion("run", "many.yaml", "a,b", *MODEL, *at, "-v"),
        fusion("run", "many.yaml", "a,bad", "-m", "scripted/torn", *at, "--debug"),
        fusion("run", "letter.yaml", "a letter", *MODEL, *at, stdin=b""),
        fusion("map", "many.yaml", "in.jsonl", *MODEL, "-o", "out.jsonl", *at),
        fusion("runs", "list", *at),
        fusion("runs", "list", "--json", *at),
        fusion("runs", "show", "latest", *at),
        fusion("runs", "export", "latest", "-o", "run.json", *at),
        fusion("runs", "show", "nothing", *at),
        fusion("doctor", *at),
    ]
    assert said[0].code == 0
    assert "s3cret" not in "".join(one.out + one.err for one in said)
    assert "s3cret" not in caplog.text
    assert "s3cret" not in (tmp_path / "run.json").read_text()
    names = execute(guarded, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'fusion'")
    for (name,) in names:
        assert execute(guarded, f"SELECT count(*) FROM fusion.{name} t WHERE t::text LIKE '%%s3cret%%'") == [(0,)]
    assert execute(guarded, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%%s3cret%%'") == [
        (0,)
    ]


def test_a_password_is_in_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_STORE", "postgresql://u:s3cret@h/db")
    settings = Settings.from_environment()
    assert settings.store.place == "postgresql://u:s3cret@h/db"
    assert "s3cret" not in f"{settings!r} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://maria:s3cret@h/db",
        "postgres://:s3cret@h/db",
        "postgresql://h/db?user=maria&password=s3cret",
        "postgresql://h/db?sslpassword=s3cret",
        "postgresql://maria:s3cret@a:1,b:2/db?sslmode=require",
    ],
)
def test_a_password_in_a_file_of_settings_is_refused(
    fusion: Command, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FUSION_STORE")
    file = own_settings(tmp_path, monkeypatch)(f'[store]\npath = "{url}"\n')
    done = fusion("runs", "list")
    assert done.code == 2
    assert str(file) in done.err
    assert "store.path" in done.err
    assert "PGPASSWORD" in done.err
    assert "s3cret" not in done.err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("postgresql://u:s3cret@h/db",), "postgresql://u@h/db"),
        (("--store=postgresql://u:s3cret@h/db?host=/x&password=s3cret",), "'--store=postgresql://u@h/db?host=/x'"),
        (("a", "postgres://u@h/db"), "a postgres://u@h/db"),
        (("a:b@c", "--tag", "k=v:w@x"), "a:b@c --tag k=v:w@x"),
    ],
)
def test_a_command_is_named_without_its_passwords(words: tuple[str, ...], shown: str) -> None:
    from fusion.cli.exits import Ending

    assert Ending(words=words).command == f"fusion {shown}"
