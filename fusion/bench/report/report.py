"""Report: renders the results of a benchmark as Markdown, HTML, a figure, and JSON lines."""

import base64
import hashlib
import html
import math
import re
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion.bench.report.analysis import analyse
from fusion.bench.report.figures import Analysis, Equal, ReviewFigures
from fusion.bench.report.gate import Gate, Judgement
from fusion.bench.report.plot.figure import figure
from fusion.bench.report.results import Outcome, Results

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).with_name("templates")
_SHOWN = 50
_REVIEW_WORDS = (
    "A review refuses a result if its first verdict is not to accept it, or if it has none. Repaired: wrong before, "
    "right after. Spoiled: right before, wrong or missing after. Cost, calls and seconds are those of its calls, "
    "revisions included."
)
_EQUAL_WORDS = (
    "Without the review, the stage passes on what it gets. At equal dollars, the cost of the review sends a random "
    "share of the items to the single model that gains most by it; the figures are computed, not run."
)
_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


class Report:
    """Renders results. Output of models is escaped; the HTML has no scripts and loads nothing."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.analysis: Analysis = analyse(results)
        self.judgements: tuple[Judgement, ...] = _judgements(results, self.analysis)
        self._png = figure(self.analysis, title=results.name)

    @property
    def passed(self) -> bool:
        """True if every judged arm meets the gate, or without a gate."""
        return all(one.passed for one in self.judgements)

    def markdown(self) -> str:
        """Return the report as Markdown, with a link to `report.png` in the same folder."""
        return self._rendered("report.md.j2", png=self._png is not None)

    def page(self) -> str:
        """Return the report as one HTML page."""
        style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        png = base64.b64encode(self._png).decode() if self._png is not None else None
        return self._rendered("report.html.j2", png=png, style=style, style_hash=f"sha256-{digest}")

    def write(self, folder: Path) -> list[Path]:
        """Write all files into a folder, which is created if missing. Returns their paths."""
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
            timed=[one for one in self.analysis.figures if one.times is not None],
            judgements=self.judgements,
            sets=list(dict.fromkeys(item.task_set for item in self.results.items)),
            clustered=len({item.cluster or item.id for item in self.results.items}) < len(self.results.items),
            tests=sorted({one.test for one in self.analysis.pairings}),
            reviews=[one for one in self.analysis.reviews if one.unit is not None],
            compared=[one for one in self.analysis.reviews if one.plain is not None],
            review_words=_REVIEW_WORDS,
            equal_words=_EQUAL_WORDS,
            shown=shown,
            prompts={item.id: item.prompt for item in self.results.items},
            texts={one.item: self._outcomes(one.item) for one in shown},
            spend=[self._spend(arm.name, arm.price_source) for arm in self.results.arms],
            **more,
        )  # fmt: skip

    def _outcomes(self, item: str) -> list[Outcome]:
        return [one for rows in self.results.by_arm.values() for one in rows.get(item, [])]

    def _spend(self, arm: str, source: str) -> dict[str, Any]:
        """Return the spend of an arm on all items and epochs."""
        outcomes = [one for rows in self.results.by_arm[arm].values() for one in rows]
        return {
            "arm": arm,
            "usd": sum((one.cost for one in outcomes if one.cost is not None), Decimal(0)),
            "charged": sum((part.charged for one in outcomes for part in one.spent), Decimal(0)),
            "unknown": sum(one.cost is None for one in outcomes),
            "cached": sum((part.cached for one in outcomes for part in one.spent), Decimal(0)),
            "read": sum(one.usage.cached_read for one in outcomes),
            "written": sum(one.usage.cache_write for one in outcomes),
            "tokens": sum(one.usage.total for one in outcomes),
            "calls": sum(one.calls for one in outcomes),
            "source": source,
        }


def _judgements(results: Results, analysis: Analysis) -> tuple[Judgement, ...]:
    """Judge every arm that is neither a single model nor a baseline; without such arms, all."""
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


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _markdown(text: object) -> str:
    return _SPECIAL.sub(r"\\\1", html.escape(_one_line(text), quote=False))


def equal_use(one: Equal) -> str:
    """Return the use of the dollars of a review, in words."""
    if not one.share:
        return "the same without it; no single model gains by the money"
    return f"{one.single}" if one.share == 1 else f"{one.share:.0%} of the items to {one.single}"


def review_name(one: ReviewFigures) -> str:
    """Return the name of a review: its arm and its stage."""
    return f"{one.arm}: {one.stage}"


def _usd(value: float | Decimal | None, unknown: str = "unknown") -> str:
    if value is None:
        return unknown
    number = float(value)
    digits = 2 if number >= 1 or number == 0 else min(10, 3 - math.floor(math.log10(number)))
    return f"${number:,.{digits}f}"


_FILTERS: dict[str, Any] = {
    "md": _markdown,
    "code": lambda text: _one_line(text).replace("`", "'").replace("|", "¦"),
    "line": lambda text: " ".join(text.splitlines()),
    "usd": _usd,
    "per_thousand": lambda one: _usd(1000 * one.cost / one.n if one.cost is not None else None),
    "share": lambda value: "" if value is None else f"{100 * value:.0f}%",
    "time": lambda value: f"{value:.2f} s",
    "seconds": lambda latency, index: "" if latency is None else f"{latency[index]:.2f} s",
    "pct": lambda value: f"{100 * value:.1f}%",
    "points": lambda value: f"{100 * value:g} point{'' if value == 0.01 else 's'}",
    "range": lambda interval: f"{100 * interval.low:.1f} to {100 * interval.high:.1f}",
    "signed": lambda value: f"{100 * value:+.2f}",
    "signed_range": lambda interval: f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}",
    "equal_use": equal_use,
    "review_name": review_name,
    "ratio": lambda value: f"{value:.3f}",
    "ratio_range": lambda interval: f"{interval.low:.3f} to {interval.high:.3f}",
    "p": lambda value: "< 0.0001" if value < 0.0001 else f"{value:.4f}",
    "right": lambda item: ", ".join(arm for arm, score in item.scores.items() if score == 1),
    "wrong": lambda item: ", ".join(arm for arm, score in item.scores.items() if score < 1),
}
"""Formats of figures, as filters of the templates."""
