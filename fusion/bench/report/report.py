"""Report: the results of a benchmark as Markdown, as one HTML file, as a figure, and item by item."""

import base64
import hashlib
import html
import math
import re
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion.bench.report.analysis import Analysis, Figures, Split, analyse
from fusion.bench.report.gate import Gate, Judgement
from fusion.bench.report.plot import figure
from fusion.bench.report.results import Outcome, Results
from fusion.bench.report.statistics import Interval
from fusion.core.types import Value

if TYPE_CHECKING:
    from jinja2 import Environment


_TEMPLATES = Path(__file__).with_name("templates")
_SHOWN = 50
_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


class _Spend(Value):
    """What one arm spent on everything that it was asked, every epoch of it."""

    arm: str
    usd: float
    charged: float
    unknown: int
    tokens: int
    calls: int
    source: str


class Report:
    """Renders results. What a model wrote is escaped; the HTML loads nothing and runs nothing."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.analysis: Analysis = analyse(results)
        self.judgements: tuple[Judgement, ...] = _judgements(results, self.analysis)
        self._png = figure(self.analysis, title=results.name)

    @property
    def passed(self) -> bool:
        """Whether every arm that is judged meets the gate; True without one."""
        return all(one.passed for one in self.judgements)

    def markdown(self) -> str:
        """The report as Markdown; it shows `report.png`, which lies beside it."""
        return self._rendered("report.md.j2", png=self._png is not None)

    def page(self) -> str:
        """The report as one HTML file."""
        style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        png = base64.b64encode(self._png).decode() if self._png is not None else None
        return self._rendered("report.html.j2", png=png, style=style, style_hash=f"sha256-{digest}")

    def write(self, folder: Path) -> list[Path]:
        """Write all of it into a folder, made where it is not there. Returns the files."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            "report.md": self.markdown().encode(),
            "report.html": self.page().encode(),
            "items.jsonl": "".join(f"{line}\n" for line in self.results.jsonl()).encode(),
            "results.json": self.results.model_dump_json(indent=1).encode() + b"\n",
        }
        if self._png is not None:
            files["report.png"] = self._png
        for name, raw in files.items():
            (folder / name).write_bytes(raw)
        return [folder / name for name in files]

    def _rendered(self, template: str, **more: Any) -> str:
        shown = self.analysis.disagreements[:_SHOWN]
        return _environment().get_template(template).render(
            r=self.results,
            a=self.analysis,
            figures=(*self.analysis.figures, *self.analysis.baselines),
            judgements=self.judgements,
            sets=list(dict.fromkeys(item.task_set for item in self.results.items)),
            clustered=len({item.cluster or item.id for item in self.results.items}) < len(self.results.items),
            tests=sorted({one.test for one in self.analysis.pairings}),
            shown=shown,
            prompts={item.id: item.prompt for item in self.results.items},
            texts={one.item: self._outcomes(one.item) for one in shown},
            spend=[self._spend(arm.name, arm.price_source) for arm in self.results.arms],
            **more,
        )  # fmt: skip

    def _outcomes(self, item: str) -> list[Outcome]:
        return [one for rows in self.results.by_arm.values() for one in rows.get(item, [])]

    def _spend(self, arm: str, source: str) -> _Spend:
        said = [one for rows in self.results.by_arm[arm].values() for one in rows]
        return _Spend(
            arm=arm,
            usd=float(sum((one.cost for one in said if one.cost is not None), Decimal(0))),
            charged=float(sum((part.charged for one in said for part in one.spent), Decimal(0))),
            unknown=sum(one.cost is None for one in said),
            tokens=sum(one.usage.total for one in said),
            calls=sum(one.calls for one in said),
            source=source,
        )


def _judgements(results: Results, analysis: Analysis) -> tuple[Judgement, ...]:
    """The gate's word on every arm that is no single model; on all of them where there are none others."""
    if not results.gate:
        return ()
    gate = Gate(results.gate)
    measures = analysis.measures()
    judged = [arm.name for arm in results.arms if arm.kind not in ("model", "baseline")]
    judged = judged or [arm.name for arm in results.arms]
    return tuple(gate.judge(name, measures) for name in judged)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=select_autoescape(("html.j2",)),
        keep_trailing_newline=True,
    )
    environment.filters.update(_FILTERS)
    return environment


# How figures are written.


def _markdown(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def _code(text: object) -> str:
    """Text between backticks, on one line."""
    return " ".join(str(text).split()).replace("`", "'").replace("|", "¦")


def _usd(value: float | None, unknown: str = "unknown") -> str:
    if value is None:
        return unknown
    digits = 2 if value >= 1 or value == 0 else min(10, 3 - math.floor(math.log10(value)))
    return f"${value:,.{digits}f}"


def _per_thousand(one: Figures) -> str:
    return _usd(1000 * one.cost / one.n if one.cost is not None else None)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}%"


def _seconds(latency: tuple[float, float, float] | None, which: int) -> str:
    return "" if latency is None else f"{latency[which]:.2f} s"


def _signed_range(interval: Interval) -> str:
    return f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _right(split: Split) -> str:
    return ", ".join(arm for arm, score in split.scores.items() if score == 1)


def _wrong(split: Split) -> str:
    return ", ".join(arm for arm, score in split.scores.items() if score < 1)


_FILTERS: dict[str, Any] = {
    "md": _markdown,
    "code": _code,
    "line": lambda text: " ".join(text.splitlines()),
    "usd": _usd,
    "usd_or": _usd,
    "per_thousand": _per_thousand,
    "share": _share,
    "seconds": _seconds,
    "pct": lambda value: f"{100 * value:.1f}%",
    "points": lambda value: f"{100 * value:g} point{'' if value == 0.01 else 's'}",
    "range": lambda interval: f"{100 * interval.low:.1f} to {100 * interval.high:.1f}",
    "signed": lambda value: f"{100 * value:+.2f}",
    "signed_range": _signed_range,
    "ratio": lambda value: f"{value:.3f}",
    "ratio_range": lambda interval: f"{interval.low:.3f} to {interval.high:.3f}",
    "p": _p,
    "right": _right,
    "wrong": _wrong,
}
