"""Plot: cost against accuracy as PNG, with intervals and the frontier."""

import io
from collections.abc import Sequence
from itertools import pairwise

from fusion.bench.report.figures import Analysis, Figures
from fusion.bench.report.frontier import Point

_COLOURS = {
    "model": "#5b6b7a",
    "pipeline": "#c2410c",
    "python": "#7c3aed",
    "outputs": "#0f766e",
    "baseline": "#a3a3a3",
}
_STEPS = 30
_MARKS = {"model": "o", "pipeline": "D", "python": "s", "outputs": "^", "baseline": "x"}


def figure(analysis: Analysis, *, title: str) -> bytes | None:
    """Return the PNG, or None if the cost of every arm is unknown. Needs the extra `bench`."""
    plotted = [one for one in (*analysis.figures, *analysis.baselines) if one.cost is not None and one.cost > 0]
    if not plotted:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    canvas = Figure(figsize=(9, 5.5), dpi=130, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    together: dict[tuple[str, str], list[int]] = {}
    for number, one in enumerate(plotted, start=1):
        _point(axes, one, number)
        together.setdefault((f"{one.cost:.2g}", f"{one.accuracy.estimate:.3f}"), []).append(number)
    for numbers in together.values():
        first = plotted[numbers[0] - 1]
        place = first.cost, 100 * first.accuracy.estimate
        axes.annotate(", ".join(map(str, numbers)), place, textcoords="offset points", xytext=(6, 5), fontsize=8)
    frontier = [point for point in analysis.frontier if point.cost > 0]
    axes.plot(*_curve(frontier), color="#111827", linewidth=1, linestyle=":", label="frontier of the arms")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("US dollars for all items, logarithmic")
    axes.set_ylabel("Accuracy in per cent, with 95% interval")
    axes.set_title(_plain(title, 80), fontsize=11)
    axes.grid(visible=True, alpha=0.25, which="both", linewidth=0.5)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    stream = io.BytesIO()
    canvas.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _curve(frontier: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Return the frontier of mixed arms: straight in dollars, curved on a logarithmic axis."""
    shares = [step / _STEPS for step in range(_STEPS + 1)]
    pairs = list(pairwise(frontier)) or [(point, point) for point in frontier]
    costs = [one.cost + share * (two.cost - one.cost) for one, two in pairs for share in shares]
    qualities = [100 * (one.quality + share * (two.quality - one.quality)) for one, two in pairs for share in shares]
    return costs, qualities


def _point(axes: object, one: Figures, number: int) -> None:
    estimate, low, high = (100 * value for value in (one.accuracy.estimate, one.accuracy.low, one.accuracy.high))
    axes.errorbar(  # type: ignore[attr-defined] # matplotlib's axes
        [one.cost],
        [estimate],
        yerr=[[max(0, estimate - low)], [max(0, high - estimate)]],
        fmt=_MARKS[one.kind],
        color=_COLOURS[one.kind],
        markersize=6,
        capsize=2,
        elinewidth=0.8,
        label=f"{number}  {_plain(one.arm, 44)}",
    )


def _plain(text: str, limit: int) -> str:
    """Return shortened text with `$` escaped, which begins a formula."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return short.replace("$", r"\$")
