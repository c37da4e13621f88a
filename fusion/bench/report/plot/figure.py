"""Figure: cost against accuracy as PNG, with names at the points, intervals and the frontier."""

import io
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fusion.bench.report.columns import MIXING
from fusion.bench.report.figures import Analysis, Figures
from fusion.bench.report.frontier import Point
from fusion.bench.report.plot.labels import Box, Label, placed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


class _Style(NamedTuple):
    """The look of a kind of arm, and its name in the legend."""

    name: str
    colour: str
    mark: str


_STYLES: Final = {
    "model": _Style("single model", "#475569", "o"),
    "pipeline": _Style("pipeline", "#c2410c", "D"),
    "python": _Style("function", "#7c3aed", "s"),
    "outputs": _Style("answers of another system", "#0f766e", "^"),
    "baseline": _Style("baseline", "#9ca3af", "X"),
}
_MIXED: Final = _Style("random mixing at an arm's cost", "#9ca3af", "x")
_INK: Final = "#111827"
_LEAD: Final = "#cbd5e1"
_STEPS: Final = 30
_DPI: Final = 130
_NAME: Final = 28
"""Letters of a name at its point."""
_MARK: Final = 7.0
"""Size of a point's mark."""


_Curve = tuple[list[float], list[float]]
"""Costs and accuracies along a line."""


class _Drawn(NamedTuple):
    """The points of a figure, its frontier, and the best single model."""

    plotted: Sequence[Figures]
    curve: _Curve
    best: Figures | None


def figure(analysis: Analysis, *, title: str) -> bytes | None:
    """Return the PNG, or None if the cost of every arm is unknown. Needs the extra `bench`."""
    plotted = [one for one in (*analysis.figures, *analysis.baselines) if one.cost is not None and one.cost > 0]
    if not plotted:
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # a name in a script without a font
        return _png(analysis, plotted, title)


def _png(analysis: Analysis, plotted: Sequence[Figures], title: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10, 6.4 if len(plotted) < 16 else 7.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    best = next((one for one in plotted if one.arm == analysis.best_single), None)
    curve = _curve([point for point in analysis.frontier if point.cost > 0])
    _draw(axes, plotted, curve, best)
    _dress(axes, best)
    canvas.suptitle(_plain(title, 90), fontsize=12, fontweight="bold")
    _name(canvas, axes, [one for one in plotted if not _is_mixed(one)], _Drawn(plotted, curve, best))
    stream = io.BytesIO()
    canvas.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _draw(axes: "Axes", plotted: Sequence[Figures], curve: _Curve, best: Figures | None) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*_ends([one.cost or 1.0 for one in plotted]))
    axes.plot(*curve, color=_INK, linewidth=1, linestyle=":", label="frontier of the arms", zorder=1)
    seen = set()
    for one in plotted:
        style = _style(one)
        _point(axes, one, style, label=None if style.name in seen else style.name)
        seen.add(style.name)
    if best is not None:
        axes.axvline(best.cost or 1, color=_LEAD, linewidth=1, zorder=0)
        axes.axhline(100 * best.accuracy.estimate, color=_LEAD, linewidth=1, zorder=0)


def _point(axes: "Axes", one: Figures, style: _Style, *, label: str | None) -> None:
    estimate, low, high = (100 * value for value in (one.accuracy.estimate, one.accuracy.low, one.accuracy.high))
    small = _is_mixed(one)
    axes.errorbar(
        [one.cost or 0],
        [estimate],
        yerr=None if small else [[max(0, estimate - low)], [max(0, high - estimate)]],
        fmt=style.mark,
        color=style.colour,
        markersize=5 if small else _MARK,
        capsize=2,
        elinewidth=0.8,
        ecolor=f"{style.colour}80",
        label=label,
        zorder=2 if one.kind in ("model", "baseline") else 3,
    )


def _ends(costs: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the axis of cost, with room for names beside the outer points."""
    room = max(1.3, (max(costs) / min(costs)) ** 0.12)
    return min(costs) / room, max(costs) * room


def _dress(axes: "Axes", best: Figures | None) -> None:
    """Set the scales, the axis of multiples of the best single model's cost, and the legend."""
    from matplotlib.ticker import FuncFormatter

    axes.margins(y=0.08)
    _scale(axes.xaxis, FuncFormatter(lambda value, _: f"${value:,g}"))
    axes.set_xlabel("US dollars for all items, logarithmic")
    axes.set_ylabel("Accuracy in per cent, with 95% interval")
    axes.grid(visible=True, alpha=0.25, which="major", linewidth=0.5)
    axes.spines[["right"]].set_visible(False)
    if best is not None:
        unit: Any = best.cost
        multiples = axes.secondary_xaxis("top", functions=(lambda usd: usd / unit, lambda times: unit * times))
        _scale(multiples.xaxis, FuncFormatter(lambda value, _: f"{value:g}×"))
        multiples.set_xlabel(f"Multiples of the cost of {_plain(best.arm, 60)}, the best single model")
    axes.legend(
        fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=5, frameon=False, columnspacing=1.4
    )


def _scale(axis: Any, form: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(form)
    axis.set_minor_formatter(NullFormatter())


def _name(canvas: "Canvas", axes: "Axes", named: Sequence[Figures], drawn: _Drawn) -> None:
    """Write the names at their points, where they cover neither one another nor a point."""
    from matplotlib.patheffects import withStroke

    canvas.draw_without_rendering()  # lays the figure out, so that places in it can be measured
    canvas.set_layout_engine("none")
    scale = _DPI / 72
    frame = axes.get_window_extent()
    labels = list(_labels(canvas, axes, named))
    taken = [_around(axes, one, scale) for one in drawn.plotted]
    lines = list(_lines(axes, drawn, frame, scale))
    inside = Box(frame.x0, frame.y0, frame.x1, frame.y1)
    for label, place in zip(labels, placed(labels, taken, lines, inside, scale), strict=True):
        style = _style(label.of)
        far = place.distance > 1.5 * _MARK * scale
        axes.annotate(
            label.text,
            xy=(label.of.cost or 0, 100 * label.of.accuracy.estimate),
            xytext=((place.box.left - label.x) / scale, (place.box.low - label.y) / scale),
            textcoords="offset points",
            fontsize=8,
            color=style.colour if label.of.kind != "baseline" else "#6b7280",
            fontweight="bold" if label.of.kind not in ("model", "baseline") else "normal",
            arrowprops={"arrowstyle": "-", "color": "#94a3b8", "linewidth": 0.6, "shrinkB": 4} if far else None,
            zorder=4,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        ).set_in_layout(False)


def _labels(canvas: "Canvas", axes: "Axes", named: Sequence[Figures]) -> Iterator[Label]:
    """Yield the labels with their sizes, those of pipelines first, since they choose their places first."""
    for one in sorted(named, key=lambda one: (one.kind in ("model", "baseline"), one.kind == "baseline")):
        text = _short(one.arm)
        bold = "bold" if one.kind not in ("model", "baseline") else "normal"
        drawn = axes.text(0.5, 0.5, text, fontsize=8, fontweight=bold, transform=axes.transAxes)
        size = drawn.get_window_extent(canvas.canvas.get_renderer())  # type: ignore[attr-defined] # of the Agg canvas
        drawn.remove()
        x, y = axes.transData.transform((one.cost or 0, 100 * one.accuracy.estimate))
        yield Label(one, text, float(x), float(y), size.width, size.height)


def _around(axes: "Axes", one: Figures, scale: float) -> Box:
    """Return the box of a point's mark."""
    x, y = axes.transData.transform((one.cost or 0, 100 * one.accuracy.estimate))
    half = _MARK / 2 * scale
    return Box(x - half, y - half, x + half, y + half)


def _lines(axes: "Axes", drawn: _Drawn, frame: Any, scale: float) -> Iterator[Box]:
    """Yield boxes along the lines: the intervals, the frontier, and those through the best single model."""
    for one in drawn.plotted:
        if not _is_mixed(one):
            x, low = axes.transData.transform((one.cost or 0, 100 * one.accuracy.low))
            _, high = axes.transData.transform((one.cost or 0, 100 * one.accuracy.high))
            yield Box(x - scale, low, x + scale, high)
    ends: Any = axes.transData.transform(list(zip(*drawn.curve, strict=True))) if drawn.curve[0] else []
    for (x, y), (then, up) in pairwise(ends):
        yield Box(min(x, then), min(y, up) - scale, max(x, then), max(y, up) + scale)
    if drawn.best is not None:
        x, y = axes.transData.transform((drawn.best.cost or 0, 100 * drawn.best.accuracy.estimate))
        yield Box(x - scale, frame.y0, x + scale, frame.y1)
        yield Box(frame.x0, y - scale, frame.x1, y + scale)


def _style(one: Figures) -> _Style:
    return _MIXED if _is_mixed(one) else _STYLES[one.kind]


def _is_mixed(one: Figures) -> bool:
    return one.kind == "baseline" and one.arm.startswith(MIXING)


def _short(name: str) -> str:
    """Return a name that fits: without the folder or provider before it, and without its middle."""
    name = name if len(name) <= _NAME else name.rpartition("/")[2]
    name = name if len(name) <= _NAME else f"{name[: _NAME - 10]}…{name[-9:]}"
    return _plain(name, _NAME)


def _curve(frontier: Sequence[Point]) -> _Curve:
    """Return the frontier of mixed arms: straight in dollars, curved on a logarithmic axis."""
    shares = [step / _STEPS for step in range(_STEPS + 1)]
    pairs = list(pairwise(frontier)) or [(point, point) for point in frontier]
    costs = [one.cost + share * (two.cost - one.cost) for one, two in pairs for share in shares]
    qualities = [100 * (one.quality + share * (two.quality - one.quality)) for one, two in pairs for share in shares]
    return costs, qualities


def _plain(text: str, limit: int) -> str:
    """Return shortened text with `$` escaped, which begins a formula."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return short.replace("$", r"\$")
