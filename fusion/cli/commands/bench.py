"""`fusion bench`: measure pipelines against single models."""

import typer

from fusion.cli.options.base import with_options
from fusion.cli.options.bench import BenchOptions


@with_options
def bench(ctx: typer.Context, options: BenchOptions) -> None:
    """Measure pipelines against single models.

    Every arm answers the same items, at its cost, with confidence intervals. Run the same command again to go on
    after an interruption: no answer is paid twice.
    """
    from fusion.cli.bench_session.bench import run_bench

    raise typer.Exit(run_bench(options, ctx.obj.command))
