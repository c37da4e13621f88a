"""`fusion worker`: run rows of maps that other processes start on the same store."""

import os
import secrets
import signal
import socket
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import typer

from fusion.cli.options.base import with_options
from fusion.cli.options.worker import WorkerOptions

if TYPE_CHECKING:
    from fusion.bulk.executors.service import News
    from fusion.core.config import Settings
    from fusion.store.slices import WorkerRow

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PAUSE: Final = 0.5
_LONGEST: Final = 10.0
"""Seconds between two tries to reach a store that was lost."""


@with_options
def worker(ctx: typer.Context, options: WorkerOptions) -> None:
    """Run rows of `fusion map --on workers`.

    Any number of workers serve one PostgreSQL store, on any machines, each with keys of its own. SIGTERM ends a
    worker once its running rows have ended; a second signal ends it at once. What it leaves, others go on with.
    """
    from fusion.cli.settings import read_settings
    from fusion.core.errors import UsageError

    if options.json and not options.listed:
        raise UsageError("--json is for --list; --events prints what a worker does as lines of JSON")
    settings = read_settings(options.config)
    if options.listed:
        _list(options, settings)
        return
    raise typer.Exit(_Serving(options, settings).run())


def _list(options: WorkerOptions, settings: "Settings") -> None:
    import json

    from fusion.cli.terminal import table, write
    from fusion.store.lookup import resolve_store

    store, _ = resolve_store(_place(options), settings)
    assert store is not None
    try:
        found = store.slices.workers()
    finally:
        store.close()
    if options.json:
        write(json.dumps([{**one._asdict(), "state": _state(one)} for one in found], indent=2) + "\n")
        return
    lines = [("WORKER", "HOST", "ROWS", "VERSION", "STATE")]
    lines += [(one.name, one.host, f"{one.rows}/{one.concurrency}", one.version, _state(one)) for one in found]
    write("\n".join(table(lines)) + "\n")


def _state(one: "WorkerRow") -> str:
    if not one.alive:
        return f"silent for {one.age:.0f} s"
    return "draining" if one.draining else "serving"


def _place(options: WorkerOptions) -> Any:
    from fusion.core.paths import store_place

    return True if options.store is None else store_place(options.store)


class _Serving:
    """A worker until its end, over losses of its store."""

    def __init__(self, options: WorkerOptions, settings: "Settings") -> None:
        self._options = options
        self._settings = settings
        self._name = options.name or f"{socket.gethostname()}-{os.getpid()}"
        self._signal = 0
        self._came, self._tell = os.pipe()
        self._ending = threading.Event()
        self._service: Any = None
        self._lock = threading.Lock()

    def run(self) -> int:
        """Serve to the end, and return the exit code."""
        from fusion.cli.exits import INTERRUPTED, OK

        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        threading.Thread(target=self._drain_at_signal, name="fusion worker signals", daemon=True).start()
        self._serve()
        return INTERRUPTED if self._signal not in (0, signal.SIGTERM) else OK

    def _serve(self) -> None:
        """Serve, also after the store was lost and is back. Raises StoreError if it cannot be opened at first."""
        from fusion.core.errors import StoreError

        before, pause, opened = None, 0.0, False
        while not self._ending.wait(pause):
            me, self._service = self._me(), None
            try:
                self._serve_once(me, before)
                return
            except StoreError as error:
                if self._service is None and not opened:
                    raise
                self._news_of("lost", f"{error}; tries again")
            pause = min(_LONGEST, 2 * pause)
            if self._service is not None:
                before, pause, opened = me.worker, _PAUSE, True

    def _serve_once(self, me: "WorkerRow", before: str | None) -> None:
        from fusion.bulk.executors.service import Service
        from fusion.bulk.fusion import Fusion, node_of

        options = self._options
        with Fusion(store=_place(options), settings=self._settings) as fusion:
            node, loop = node_of(fusion, concurrency=options.concurrency)
            service = Service(fusion.store, node, me, self._news, idle=options.idle, before=before)
            with self._lock:
                self._service = service, loop
                if self._ending.is_set():
                    return
            loop.submit(service.serve()).done.result()

    def _me(self) -> "WorkerRow":
        from fusion import __version__
        from fusion.store.slices import WorkerRow

        about = (self._name, socket.gethostname(), os.getpid(), __version__, self._options.concurrency)
        return WorkerRow(secrets.token_hex(8), *about, time.time())

    # Signals: the handler writes to a pipe, since it may interrupt any other line of the program.

    def _handle(self, number: int, frame: FrameType | None) -> None:
        from fusion.cli.exits import INTERRUPTED

        if self._signal:
            os._exit(INTERRUPTED)
        self._signal = number
        os.write(self._tell, b"!")

    def _drain_at_signal(self) -> None:
        os.read(self._came, 1)
        self._ending.set()
        with self._lock:
            serving = self._service
        if serving is not None:
            service, loop = serving
            loop.submit(service.drain(self._options.grace))

    # News.

    def _news_of(self, kind: Any, message: str) -> None:
        from fusion.bulk.executors.service import News

        self._news(News(type=kind, at=time.time(), worker=self._name, message=message))

    def _news(self, news: "News") -> None:
        from fusion.cli.terminal import complain, write

        if self._options.events:
            write(f"{news.model_dump_json(exclude_none=True)}\n")
        elif not self._options.quiet or news.type in ("lost", "row_failed", "gave_up", "refused"):
            complain(f"fusion: {news.message}")
