"""Fusion with maps: one pipeline over many inputs."""

import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Unpack

from fusion.client import client
from fusion.client.options import DEFAULT_PIPELINE, answer_of, check_options, tags_of

if TYPE_CHECKING:
    from fusion.bulk.begin import MapGround, MapInputs
    from fusion.bulk.executors.node import Node
    from fusion.bulk.handle import AsyncMapRows, MapHandle, MapRows
    from fusion.bulk.map import MapRun
    from fusion.bulk.options import MapOptions
    from fusion.bulk.quote import MapQuote
    from fusion.client.loop import LoopThread
    from fusion.core.budget import Budget
    from fusion.engine.run_spec import RunSpec


class Fusion(client.Fusion):
    __doc__ = client.Fusion.__doc__

    def map(self, inputs: "MapInputs", **options: "Unpack[MapOptions]") -> "MapRows":
        """Run a pipeline over many inputs, and iterate over the rows as they finish; requires `store`.

        `inputs` is a file of JSONL, CSV or Parquet, a folder or a pattern such as "docs/*.md", a list of Paths, or an
        iterable of mappings or texts. Columns go to the pipeline's inputs of their names. `MapOptions` describes the
        options.

        Each row is a run in the store. A map that is started again makes no finished call twice: rows that are done
        come from the store, changed and unfinished ones run. Memory does not grow with the number of rows.

        Raises UsageError before any call is made.

        >>> with Fusion(store=True) as fusion:
        ...     for row in fusion.map("tickets.csv", pipeline="triage.yaml", key="id"):
        ...         print(row.key, row.status, row.text)
        """
        from fusion.bulk.handle import MapRows  # a single run needs none of it

        map_id, run = self._map(inputs, None, options)
        return MapRows(map_id, run, self._launcher.loop, self)

    def amap(self, inputs: "MapInputs", **options: "Unpack[MapOptions]") -> "AsyncMapRows":
        """`map` for `async for`, on the caller's running loop."""
        from fusion.bulk.handle import AsyncMapRows

        map_id, run = self._map(inputs, None, options)
        return AsyncMapRows(map_id, run, self._launcher.loop, self)

    def start_map(self, inputs: "MapInputs", *, stdout: Any = None, **options: "Unpack[MapOptions]") -> "MapHandle":
        """Start a map and return at once. Rows go to `output`; without one, to the binary stream `stdout`, if any."""
        from fusion.bulk.handle import MapHandle, to_end

        map_id, run = self._map(inputs, stdout, options)
        work = self._launcher.loop.submit(to_end(run))
        return MapHandle(map_id, work.done, stop=work.cancel, owner=self)

    def quote_map(self, inputs: "MapInputs", *, quoted: int = 20, **options: "Unpack[MapOptions]") -> "MapQuote":
        """Return the likely cost of a map, from the quotes of so many `quoted` rows of it, without any call.

        Rows that the store has already are not counted in the cost. `.usd` has `low`, `likely`, `high` and the `cap`
        of the budget, if one is given. `.budgets` are those of the store that cover the map, with what is left of
        them. With `batch`, prices are those of the providers' batches.

        Raises UsageError for inputs that cannot be read, or only once, such as standard input.

        >>> quote = fusion.quote_map("tickets.csv", pipeline="triage.yaml", key="id")
        >>> quote.to_run, quote.usd.likely
        """
        from fusion.bulk.begin import pass_ahead
        from fusion.bulk.options import Choice, MapOptions, checked_concurrency
        from fusion.bulk.quote import checked_source, quoted_map
        from fusion.bulk.reader import chosen
        from fusion.bulk.sources import open_source
        from fusion.bulk.sources.columns import reads_media
        from fusion.core.budget import limits_of
        from fusion.core.types import Limits
        from fusion.engine.prepare import prepare_many, prepare_without_keys

        check_options(options, MapOptions)
        self._launcher.loop.check_outside("a map cannot be quoted")
        loaded = self._loader.load(options.get("pipeline", DEFAULT_PIPELINE))
        batch, terms = options.get("batch", False), _terms(options)
        spec = prepare_without_keys(self._cast, loaded, make=prepare_many, limits=self._budget, **terms)
        ground = self._ground(spec, None)
        media = reads_media(loaded.pipeline, options.get("constants") or ())
        source = checked_source(open_source(inputs, format=options.get("format"), media=media))
        choice = Choice.of(options.get("limit"), options.get("sample"))
        one = pass_ahead(ground, source, options)
        shared, budgets = self._launcher.budgets.ahead(options.get("within"), one.tags)
        limits = (limits_of(options.get("budget")) or Limits()).tighter(shared or Limits())
        return quoted_map(
            one,
            source,
            chosen(source, choice, one.name_of),
            self._launcher.recorder.store,
            limits=limits,
            budgets=budgets,
            concurrency=checked_concurrency(options.get("concurrency"), batch=batch),
            sample=quoted,
        )

    def _map(self, inputs: "MapInputs", stdout: Any, options: "MapOptions") -> "tuple[str, MapRun]":
        from fusion.bulk.begin import begin
        from fusion.bulk.options import MapOptions
        from fusion.bulk.outputs import answer_fields, open_output
        from fusion.bulk.sources import open_source
        from fusion.bulk.sources.columns import reads_media
        from fusion.engine.prepare import prepare_many

        check_options(options, MapOptions)
        self._check_startable()
        shared = options.get("within")
        if options.get("on") is not None and isinstance(shared, str):
            self._launcher.budgets.check(shared)
        within = self._launcher.budgets.of(shared, tags_of(options.get("tags")))
        loaded = self._loader.load(options.get("pipeline", DEFAULT_PIPELINE))
        spec = prepare_many(self._cast, loaded, limits=self._budget, **_terms(options))
        ground = self._ground(spec, within)
        media = reads_media(loaded.pipeline, options.get("constants") or ())
        source = open_source(inputs, format=options.get("format"), media=media, stdin=_stdin())
        path = options.get("output")
        output = (
            None
            if path is None and stdout is None
            else open_output(path, answer_fields(loaded), stdout=stdout, read=source.holds)
        )
        return begin(ground, source, output, options)

    def _ground(self, spec: "RunSpec", within: "Budget | None") -> "MapGround":
        from fusion.bulk.begin import MapGround

        launcher = self._launcher
        own = frozenset(self._cast.own)
        return MapGround(launcher.recorder, spec, own, launcher.budgets, within, launcher.sweep())


def _terms(options: "MapOptions") -> dict[str, Any]:
    """Return the options of a map that hold for each of its runs."""
    answer = answer_of(options.get("answer"))
    return {"cache": options.get("cache"), "batch": options.get("batch", False), "answer": answer}


def _stdin() -> BinaryIO | None:
    """Return standard input as bytes; None if it is closed."""
    return getattr(sys.stdin, "buffer", None)


def node_of(fusion: Fusion, *, concurrency: int) -> "tuple[Node, LoopThread]":
    """Return a node that runs slices of maps with the models and the store of a Fusion, and the loop to do so on."""
    from fusion.bulk.executors.node import Node
    from fusion.bulk.executors.recorded import NodeParts

    launcher = fusion._launcher
    parts = NodeParts(launcher.recorder, fusion._loader.library, fusion._cast, launcher.budgets)
    return Node(parts, concurrency=concurrency), launcher.loop
