"""`fusion quote`: the likely cost and time of a run, and its cap, without a call."""

import sys

from fusion.cli.options.base import with_options
from fusion.cli.options.runs import QuoteOptions


@with_options
def quote(options: QuoteOptions) -> None:
    """Quote the cost and time of a run; make no call.

    Prints low, likely and high figures, and the cap that no run can exceed. With `--map`, the figures of a map are
    scaled from a sample of its rows.
    """
    if options.of_map is not None:
        from fusion.cli.map_session import quote_of_map

        quote_of_map(options)
        return
    from fusion.cli.session import quote_of
    from fusion.cli.terminal import printable, width_of, write
    from fusion.cli.views.preview import quote_lines

    quoted = quote_of(options)
    if options.json:
        write(f"{quoted.model_dump_json(indent=2)}\n")
    else:
        write("\n".join(map(printable, quote_lines(quoted, width_of(sys.stdout)))) + "\n")
