"""`fusion tune`: choose the cheapest way on dev items, and confirm the choice on test items."""

import os
from typing import Final

import typer

from fusion.cli.options.base import with_options
from fusion.cli.options.bench import TuneOptions

_ONE_THREAD: Final = "OPENBLAS_NUM_THREADS"
"""Threads of numpy's products: those of a search are narrow, and two threads wait for each other most of the time."""


@with_options
def tune(ctx: typer.Context, options: TuneOptions) -> None:
    """Choose models, thresholds and numbers on dev items.

    With a file of items and --over, each model is asked alone once. All cascades of them that compare answers are
    judged from these answers, and the cheapest that is as good as the best model is taken.

    With a suite, every {any: [a, b, c]} in its arms or in their pipeline files is chosen, and every {search: …} in
    place of a cascade's tiers.

    The choice is confirmed once on the test items, and written to files that `fusion run` takes. Run the same
    command again to go on after an interruption: no answer is paid twice.
    """
    os.environ.setdefault(_ONE_THREAD, "1")  # read when numpy is loaded
    from fusion.cli.bench_session.tune import run_tune

    raise typer.Exit(run_tune(options, ctx.obj.command))
