"""The database: commits without NOTIFY, with it, and before it; updates of one row; memory of a connection.

A throw-away PostgreSQL of the machine's own binaries, fsync on. Each connection commits 8 rows of 2 kB over and over,
as the writer of a node does under load. The model of many nodes takes its figures from here.

    python -m benchmarks.distributed.database [--seconds 2] [--connections 1 8 32]
"""

import argparse
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.distributed.cluster import Cluster, cluster
from benchmarks.perf.figures import machine

_ROWS: Final = 8
_BODY: Final = bytes(2_000)
_TABLES: Final = """
create table bodies (id bigint generated always as identity primary key, body bytea);
create table caps (name text primary key, used bigint);
insert into caps values ('day', 0);
"""


def write(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction():
        connection.cursor().executemany("insert into bodies (body) values (%s)", [(_BODY,)] * _ROWS)


def notify(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction():
        connection.cursor().executemany("insert into bodies (body) values (%s)", [(_BODY,)] * _ROWS)
        connection.execute("select pg_notify('runs', 'a run and a number')")


def notify_apart(connection: psycopg.Connection[Any]) -> None:
    """Write, then notify in a transaction that does not wait for the disk."""
    write(connection)
    with connection.transaction():
        connection.execute("set local synchronous_commit to off")
        connection.execute("select pg_notify('runs', 'a run and a number')")


def lease(connection: psycopg.Connection[Any]) -> None:
    connection.execute("update caps set used = used + 1 where name = 'day' and used + 1 <= 1000000000")


def rate(made: Cluster, act: Callable[[psycopg.Connection[Any]], None], count: int, seconds: float) -> float:
    """Return acts a second of so many connections, each in a thread of its own."""
    done = [0] * count
    begin, end = threading.Barrier(count + 1), threading.Event()

    def work(number: int) -> None:
        with psycopg.connect(made.url(), autocommit=True) as connection:
            begin.wait()
            while not end.is_set():
                act(connection)
                done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    begin.wait()
    began = time.monotonic()
    end.wait(seconds)
    end.set()
    took = time.monotonic() - began
    for thread in threads:
        thread.join()
    return sum(done) / took


def memory(made: Cluster, count: int) -> float:
    """Return the memory in MB that a connection adds to the server, after it has written and read."""
    with psycopg.connect(made.url(), autocommit=True) as watching:
        before = proportional(made)
        opened = [psycopg.connect(made.url(), autocommit=True) for _ in range(count)]
        for connection in opened:
            write(connection)
            connection.execute("select id, length(body) from bodies order by id limit 100").fetchall()
        after = proportional(made)
        for connection in opened:
            connection.close()
        watching.execute("select 1")
    return (after - before) / count


def proportional(made: Cluster) -> float:
    """Return the memory of all processes of a server in MB, shared pages in proportion."""
    return sum(_pss(child) for child in Path(f"/proc/{made.pid}/task/{made.pid}/children").read_text().split())


def _pss(process: str) -> float:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # it has just ended
    return int(text.partition("\nPss:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    given = parser.parse_args()
    print(machine())
    with cluster("-c", "max_connections=200") as made:
        with psycopg.connect(made.url(), autocommit=True) as connection:
            connection.execute(_TABLES)
        for count in given.connections:
            acts = (write, notify, notify_apart, lease)
            plain, told, apart, leased = (rate(made, act, count, given.seconds) for act in acts)
            print(
                f"{count} connections: {plain:,.0f} commits/s of {_ROWS} rows; with NOTIFY {told:,.0f} "
                f"({told / plain:.0%}), behind it {apart:,.0f} ({apart / plain:.0%}); {leased:,.0f} of one row"
            )
        print(f"memory: {memory(made, 20):.1f} MB a connection")
    print(machine())


if __name__ == "__main__":
    main()
