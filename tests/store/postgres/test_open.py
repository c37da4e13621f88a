"""Opening a store in a database: what is made, and every reason why it cannot be."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from fusion.core.errors import StoreError
from fusion.store.open import open_store
from fusion.store.postgres import migrations
from fusion.store.postgres.address import Address
from fusion.store.rows import RunFilter
from tests.postgres import GUARDED, PASSWORD, USER, Cluster, execute
from tests.store.conformance import call, kept, started, work

needs_server = pytest.mark.needs("initdb")


def refused(url: str, *says: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(url)
    for words in says:
        assert words in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_server
def test_what_was_written_is_there_when_it_is_opened_again(database: str) -> None:
    first = open_store(database)
    first.put(started(), *work())
    first.close()
    again = open_store(database)
    assert again.call("r1", 1) == call()
    again.close()


@needs_server
def test_other_schemas_of_the_database_are_left_alone(database: str) -> None:
    execute(database, "CREATE TABLE IF NOT EXISTS public.runs (theirs int)")
    store = kept(open_store(database), started())
    assert [row.run_id for row in store.runs(RunFilter())] == ["r1"]
    store.close()
    assert execute(database, "SELECT count(*) FROM public.runs") == [(0,)]
    assert execute(database, "SELECT count(*) FROM fusion.runs") == [(1,)]
    execute(database, "DROP TABLE public.runs")


# URLs.


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("postgresql://maria@db.example:5433/runs", "postgresql://maria@db.example:5433/runs"),
        ("postgres://maria:s3cret@db.example/runs", "postgresql://maria@db.example/runs"),
        ("postgresql://maria:s3%20cret@a:1,b:2/runs?sslpassword=s3cret", "postgresql://maria@a:1,b:2/runs"),
        ("postgresql://[::1]:5432/runs?password=s3cret", "postgresql://[::1]:5432/runs"),
        (
            "postgresql://maria:s3cret@/runs?host=/var/run/postgresql",
            "postgresql://maria@/runs?host=/var/run/postgresql",
        ),
        ("postgresql:///?user=maria&password=s3cret&dbname=a%20b", "postgresql://maria@/a%20b"),
    ],
)
def test_a_database_is_named_without_secrets(url: str, where: str) -> None:
    address = Address.of(url)
    assert address.where == where
    assert "cret" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret%zz@host/db",
        "postgresql://u:s3cret@[::1/db",
        "postgresql://u:s3cret@host/db?colour=red",
        "postgresql://u:s3cret@host/db?sslmode",
        "postgres://u:s3cret@host/db?=x",
    ],
)
def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(StoreError, match="write postgresql://USER@HOST:PORT/DATABASE") as caught:
        open_store(url)
    assert "cret" not in str(caught.value)


# Servers, users and databases that cannot be used.


@pytest.fixture
def role(cluster: Cluster, bare: str) -> Iterator[Callable[[str], str]]:
    """Makes a user with these rights in the database, beyond those of everyone; the URL of that user."""
    name = "limited"
    cluster.execute(f"CREATE ROLE {name} LOGIN")

    def made(rights: str) -> str:
        if rights:
            execute(bare, rights.format(name))
        return bare.replace(f"//{USER}@", f"//{name}@")

    yield made
    execute(bare, f"DROP OWNED BY {name}")
    cluster.execute(f"DROP ROLE {name}")


def test_a_server_that_is_not_there_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        refused(f"postgresql://u:s3cret@127.0.0.1:{port}/db", "start the server, or correct host and port")


def test_a_host_that_is_not_there_is_said() -> None:
    refused("postgresql://u@no-such-host.invalid/db", "correct the host in the URL", "no-such-host.invalid")


def test_a_folder_without_a_server_is_said(tmp_path: object) -> None:
    refused(f"postgresql://u@/db?host={tmp_path}", "start the server, or correct the host")


def test_a_server_that_does_not_answer_is_given_up() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        port = deaf.getsockname()[1]
        refused(f"postgresql://u@127.0.0.1:{port}/db?connect_timeout=2", "the server does not answer")


@needs_server
def test_an_unknown_database_is_said(cluster: Cluster) -> None:
    refused(cluster.url("absent"), "createdb", "absent")


@needs_server
def test_an_unknown_user_is_said(cluster: Cluster) -> None:
    refused(cluster.url("postgres", "absent"), "correct the user in the URL")


@needs_server
@pytest.mark.parametrize("given", ["", "wr0ng"])
def test_a_wrong_password_is_said_and_not_repeated(
    cluster: Cluster, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    user = f"{GUARDED}:{given}" if given else GUARDED
    with pytest.raises(StoreError, match="PGPASSWORD") as caught:
        open_store(cluster.url("postgres", user))
    assert not given or given not in str(caught.value)


@needs_server
def test_the_right_password_opens_it(cluster: Cluster, bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(bare, f"GRANT CREATE ON DATABASE {bare.split('/')[3].split('?')[0]} TO {GUARDED}")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    store = kept(open_store(bare.replace(f"//{USER}@", f"//{GUARDED}@")), started())
    assert store.run("r1") is not None
    assert PASSWORD not in store.where
    store.close()


@needs_server
def test_a_user_who_may_create_nothing_is_said(role: Callable[[str], str]) -> None:
    refused(role(""), "grant it the rights", "permission denied for database")


@needs_server
def test_a_user_who_may_only_read_is_said(bare: str, role: Callable[[str], str]) -> None:
    open_store(bare).close()
    reader = role("GRANT USAGE ON SCHEMA fusion TO {0}; GRANT SELECT ON ALL TABLES IN SCHEMA fusion TO {0}")
    refused(reader, "may only read it", "INSERT, UPDATE and DELETE")


@needs_server
def test_a_user_who_may_read_and_write_rows_needs_no_more(bare: str, role: Callable[[str], str]) -> None:
    open_store(bare).close()
    rights = "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES"
    store = open_store(role(f"GRANT USAGE ON SCHEMA fusion TO {{0}}; GRANT {rights} IN SCHEMA fusion TO {{0}}"))
    kept(store, started(), *work())
    store.lock("r1").release()
    assert store.remove(["r1"]) == 1
    store.close()


@needs_server
def test_a_server_that_may_only_be_read_is_said(bare: str) -> None:
    open_store(bare).close()
    refused(f"{bare}&options=-c%20default_transaction_read_only%3Don", "may only be read")


@needs_server
def test_the_schema_of_another_program_is_left_alone(bare: str) -> None:
    execute(bare, "CREATE SCHEMA fusion")
    execute(bare, "CREATE TABLE fusion.reactors (power int)")
    refused(bare, "is that of another program", "choose another database")
    assert execute(bare, "SELECT count(*) FROM pg_tables WHERE schemaname = 'fusion'") == [(1,)]


@needs_server
def test_an_empty_schema_that_was_made_for_it_is_used(bare: str, role: Callable[[str], str]) -> None:
    user = role("CREATE SCHEMA fusion AUTHORIZATION {0}")
    store = kept(open_store(user), started())
    assert store.run("r1") is not None
    store.close()


@needs_server
def test_another_encoding_is_refused(cluster: Cluster) -> None:
    cluster.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    refused(cluster.url("latin"), "LATIN1", "createdb --encoding=UTF8")
    cluster.execute("DROP DATABASE latin")


@needs_server
def test_a_server_without_connections_left_is_said(cluster: Cluster, database: str) -> None:
    cluster.execute("CREATE ROLE few LOGIN CONNECTION LIMIT 0")
    refused(cluster.url("postgres", "few"), "too many connections for role")
    cluster.execute("DROP ROLE few")


# Versions.


@needs_server
def test_a_store_of_a_newer_version_says_which(bare: str) -> None:
    open_store(bare).close()
    execute(bare, "UPDATE fusion.fusion_store SET version = version + 3")
    refused(bare, f"has version {migrations.NEWEST + 3}", f"up to {migrations.NEWEST}", "update Fusion")


@needs_server
@pytest.mark.parametrize("old", range(1, migrations.NEWEST))
def test_a_store_of_any_older_version_is_brought_up_to_date(bare: str, old: int) -> None:
    """Tables are made as that version made them, and hold rows."""
    import psycopg

    with psycopg.connect(bare, autocommit=True) as connection:
        migrations.migrate(connection, to=old)
    execute(
        bare,
        "INSERT INTO fusion.runs (run_id, root, pipeline, profile, started, tags, content, fingerprint)"
        " VALUES ('old', 'old', 'plan', 'local', 1.0, '{\"a\":\"b\"}', 'full', 'f')",
    )
    store = open_store(bare)
    assert [row.run_id for row in store.runs(RunFilter(tags={"a": "b"}))] == ["old"]
    assert kept(store, started(), call()).call("r1", 1) == call()
    store.close()


OPENS = """
import sys
from fusion.store.open import open_store
from tests.store.conformance import kept, started, work
sys.stdin.readline()
store = open_store(sys.argv[1])
for number in range(1, 6):
    kept(store, started(sys.argv[2]), *work(number, sys.argv[2]))
store.close()
"""


@needs_server
def test_processes_that_open_a_new_store_at_once_all_write_to_it(bare: str) -> None:
    racing = [
        subprocess.Popen([sys.executable, "-c", OPENS, bare, f"r{n}"], stdin=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    for process in racing:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.close()
    assert [process.wait(timeout=60) for process in racing] == [0] * 3
    store = open_store(bare)
    assert [store.last_numbers(f"r{n}") for n in range(3)] == [(5, 0)] * 3
    store.close()
