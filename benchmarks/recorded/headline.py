"""The headline of README and docs, and the reports in results/, all generated from the results files.

python -m benchmarks.recorded.headline
"""

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "pages" / "benchmarks.md"
SUITES = ("recorded", "lineage")
TUNED = "tuned"
"""The name of the arm chosen on the dev side of the suite's split."""
BEGIN, END = "<!-- made by python -m benchmarks.recorded.headline -->\n", "<!-- the end of it -->\n"
SETS = {"gsm8k": "GSM8K", "cruxeval": "CRUXEval", "math_l5": "MATH, level 5", "lineage": "lineage"}
ALL = "https://github.com/compound-fusion/fusion/blob/main/benchmarks/results"


def main() -> None:
    for name in SUITES:
        (RESULTS / f"{name}.md").write_text(report(load(name)), encoding="utf-8")
    into_pages()


def into_pages() -> None:
    """Write the short headline into the README, and the full one into the docs."""
    recorded, lineage = map(load, SUITES)
    for path, made in ((README, summary(recorded, lineage)), (PAGE, headline(recorded, lineage))):
        text = path.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, behind = rest.partition(END)
        path.write_text(f"{before}{BEGIN}{made}{END}{behind}", encoding="utf-8")


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def summary(recorded: Mapping[str, Any], lineage: Mapping[str, Any]) -> str:
    """Return three lines: the gain with its intervals, the loss by set, and the data on which nothing is gained."""
    lines = [
        f"On {recorded['items']:,} recorded questions, {_gain(recorded)}.",
        f"Set by set, losses included: {_by_set(recorded)}.",
        f"On {lineage['items']} long chains of kinship with models of 2025, {_single(lineage)}: {_gain(lineage)}.",
        "The models of the first are of 2024, their prices as remembered. `fusion tune` measures your own questions.",
    ]
    return "".join(f"- {line}\n" for line in lines)


def headline(recorded: Mapping[str, Any], lineage: Mapping[str, Any]) -> str:
    """Return the table with its caveats."""
    tables = {one["suite"]: "\n".join(_rows(one)) for one in (recorded, lineage)}
    facts = {
        "items": f"{recorded['items']:,}",
        "gain": _gain(recorded),
        "sets": _by_set(recorded),
        "recorded": tables["recorded"],
        "lineage": tables["lineage"],
        "chains": lineage["items"],
        "single": _single(lineage),
        "lineage_gain": _gain(lineage),
        "tuned": _tuned(recorded),
        "all": ALL,
    }
    return _wrapped(_HEADLINE.format(**facts))


def report(data: Mapping[str, Any]) -> str:
    """Return all results of a suite as Markdown."""
    facts = {
        **data,
        "counted": ", ".join(f"{SETS[name]}: {count:,}" for name, count in data["sets"].items()),
        "singles": _best(data),
        "gain": _gain(data),
        "means": "\n".join(_mean_rows(data)),
        "arms": "\n".join(_long_row(name, arm, data["pairings"].get(name)) for name, arm in data["arms"].items()),
        "by_set": "\n".join(_set_rows(data)),
        "tuned_words": _tuned(data),
        "ways": "\n".join(_way_rows(data)),
    }
    return _wrapped(_REPORT.format(**facts))


def _wrapped(text: str) -> str:
    """Return the text with wrapped paragraphs; tables and headings keep their lines."""
    parts = [
        one if one.startswith(("|", "#")) else textwrap.fill(one, 118, break_long_words=False, break_on_hyphens=False)
        for one in text.rstrip("\n").split("\n\n")
        if one.strip()
    ]
    return "\n\n".join(parts) + "\n"


_HEADLINE = """\
`fusion tune` asks every model alone, and judges all ways of cheap models that must agree, with another one asked
else. It takes the cheapest that loses nothing to the best single model, by cross-validation. Here it chose on nine
tenths of {items} questions and answered the remaining tenth. So every question counts once, under a choice made
without it. Five seeds cut the tenths: {gain}.

| arm | right | points to the best single model | 95% | cost | cost, one price moved by half |
| --- | ---: | ---: | :---: | ---: | :---: |
{recorded}

Set by set, losses included: {sets}. {tuned}The models are of 2024 and their answers on record; five of the 17 have no
answers to GSM8K. Their prices are list prices of late 2024 as remembered, since no price map of today holds them.
The last column is the range of the cost where the price of any one model is half as high, or half as high again.

One cheap model that is as good as the dearest leaves nothing to combine. On {chains} long chains of kinship with
19 models of 2025, {single}: {lineage_gain}.

| arm | right | points to the best single model | 95% | cost | cost, one price moved by half |
| --- | ---: | ---: | :---: | ---: | :---: |
{lineage}

`python -m benchmarks.recorded` makes all of it anew; all results of [recorded]({all}/recorded.md) and
[lineage]({all}/lineage.md)."""

_REPORT = """\
# {suite}

{singles}: {gain}.

`python -m benchmarks.recorded {suite}`: {items:,} items ({counted}), recorded answers. Everything goes through the
engine as `replay:` models. Measured in {seconds} s, {suite_seconds} s of it for the arms and their report,
{cpu_seconds} s of CPU: {machine}; afterwards {load_after}.

## Chosen out of fold, against each of the level single models

| seed | against | points | 95% | cost ratio |
| --- | --- | ---: | :---: | ---: |
{means}

## Against the best single model, on the same items

| arm | right | 95% | points | 95% | cost ratio | 95% | one price moved by half | failed | verdict |
| --- | ---: | :---: | ---: | :---: | ---: | :---: | :---: | ---: | --- |
{arms}

Intervals of differences and ratios are by the paired BCa bootstrap, 10,000 draws. {tuned_words}

## By set

| set | arm | points | 95% | cost ratio |
| --- | --- | ---: | :---: | ---: |
{by_set}

## Choice of the ways

A way is a model alone, with a pair of cheap models that must agree before it, or with a pair and a third that answers
if the two differ. The chooser of `fusion tune` sees nine folds of ten; the rule is documented there.

| seed | route | ways, with the number of folds of ten that chose each |
| ---: | --- | --- |
{ways}
"""


def _gain(data: Mapping[str, Any]) -> str:
    """Return the means of the chosen ways against the best single model."""
    mean, seeds = data["mean"][data["best_single"]], _chosen(data)
    points = [_points(one) for one in seeds]
    return (
        f"the choice of `fusion tune` makes {mean['points']:+.2f} points at {mean['cost_ratio']:.2f} of the best "
        f"single model's cost (five seeds, {min(points):+.2f} to {max(points):+.2f}; mean lower end of the 95% "
        f"intervals {mean['low']:+.2f})"
    )


def _single(data: Mapping[str, Any]) -> str:
    """Return the single model that does it alone, with what the dearer ones cost."""
    alone, best = data["alone"], data["best_single"]
    if alone is not None:
        return f"{alone['model']} alone is as good as {best}, at {alone['ratio']:.2f} of its cost"
    others = {name: arm for name, arm in data["arms"].items() if arm["kind"] == "model" and name != best}
    second = max(others, key=lambda name: others[name]["accuracy"]["estimate"])
    ratio = data["arms"][best]["usd"] / others[second]["usd"]
    return f"{best} alone is the best single model, at {ratio:.2f} of the cost of the second, {second}"


def _best(data: Mapping[str, Any]) -> str:
    level = data["level"]
    named = f"Best single model{'s, level' if len(level) > 1 else ''}: {' and '.join(level)}"
    return named if data["alone"] is None or data["alone"]["model"] in level else f"{_single(data)}. {named}"


def _tuned(data: Mapping[str, Any]) -> str:
    one = data["tuned"]
    if one is None:
        return ""
    return (
        f"`tuned` is the choice of `fusion tune` on one half of the questions. On the {one['items']:,} of the other "
        f"it makes {_signed(one)} points ({_range(one['difference'])}) at {_ratio(one)} of the cost of "
        f"{one['best_single']}, the best single model there. "
    )


def _mean_rows(data: Mapping[str, Any]) -> Iterator[str]:
    for single, pairs in data["against"].items():
        for name, one in pairs.items():
            cells = [name.rpartition(" ")[2], single, _signed(one), _range(one["difference"]), _ratio(one)]
            yield f"| {' | '.join(cells)} |"
        mean = data["mean"][single]
        yield f"| mean | {single} | {mean['points']:+.2f} | {mean['low']:+.2f} at least | {mean['cost_ratio']:.3f} |"


def _set_rows(data: Mapping[str, Any]) -> Iterator[str]:
    wanted = [name for name, arm in data["arms"].items() if arm["kind"] == "pipeline"]
    for one in (one for one in data["by_set"] if one["arm"] in wanted):
        cells = [SETS[one["set"]], one["arm"], _signed(one), _range(one["difference"]), _ratio(one)]
        yield f"| {' | '.join(cells)} |"


def _way_rows(data: Mapping[str, Any]) -> Iterator[str]:
    for seed, routes in data["ways"].items():
        for route, ways in routes.items():
            said = "; ".join(f"{way}: {n}" for way, n in sorted(ways.items(), key=lambda pair: -pair[1]))
            yield f"| {seed} | {route} | {said} |"


def _by_set(data: Mapping[str, Any]) -> str:
    """Return the range over the seeds of each set."""
    return "; ".join(_of_set(data, name) for name in data["sets"])


def _of_set(data: Mapping[str, Any], name: str) -> str:
    ones = [one for one in data["by_set"] if one["set"] == name and one["arm"] in _seeds(data)]
    points, ratios = list(map(_points, ones)), [one["cost_ratio"]["estimate"] for one in ones]
    return f"{SETS[name]} {min(points):+.1f} to {max(points):+.1f} points at {min(ratios):.2f} to {max(ratios):.2f}"


def _rows(data: Mapping[str, Any]) -> Iterator[str]:
    for name in data["level"]:
        arm, best = data["arms"][name], data["arms"][data["best_single"]]
        yield f"| {name} alone | {_right(arm)} | | | {arm['usd'] / best['usd']:.2f} | |"
    pipelines = [name for name, arm in data["arms"].items() if arm["kind"] == "pipeline"]
    for name in sorted((one for one in pipelines if one != TUNED), key=lambda one: one not in _seeds(data)):
        pair, arm = data["pairings"][name], data["arms"][name]
        low, high = arm["ratio_if_a_price_moves_by_half"]
        yield (
            f"| {name} | {_right(arm)} | {_signed(pair)} | {_range(pair['difference'])} "
            f"| {pair['cost_ratio']['estimate']:.2f} | {low:.2f} to {high:.2f} |"
        )


def _long_row(name: str, arm: Mapping[str, Any], pair: Mapping[str, Any] | None) -> str:
    accuracy = arm["accuracy"]
    cells = [
        name,
        f"{100 * accuracy['estimate']:.2f}",
        f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}",
    ]
    if pair is None:
        return f"| {' | '.join([*cells, '', '', '', '', '', str(arm['failed']), ''])} |"
    ratio, moved = pair["cost_ratio"], arm["ratio_if_a_price_moves_by_half"]
    cells += [_signed(pair), _range(pair["difference"]), _ratio(pair), f"{ratio['low']:.3f} to {ratio['high']:.3f}"]
    cells += [f"{moved[0]:.3f} to {moved[1]:.3f}", str(arm["failed"]), pair["verdict"]]
    return f"| {' | '.join(cells)} |"


def _right(arm: Mapping[str, Any]) -> str:
    return f"{100 * arm['accuracy']['estimate']:.1f}%"


def _seeds(data: Mapping[str, Any]) -> list[str]:
    return [name for name, arm in data["arms"].items() if arm["kind"] == "pipeline" and "out of fold" in name]


def _chosen(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [data["pairings"][name] for name in _seeds(data)]


def _points(pair: Mapping[str, Any]) -> float:
    return 100 * float(pair["difference"]["estimate"])


def _signed(pair: Mapping[str, Any]) -> str:
    return f"{_points(pair):+.2f}"


def _range(interval: Mapping[str, float]) -> str:
    return f"{100 * interval['low']:+.2f} to {100 * interval['high']:+.2f}"


def _ratio(pair: Mapping[str, Any]) -> str:
    return "unknown" if pair["cost_ratio"] is None else f"{pair['cost_ratio']['estimate']:.3f}"


if __name__ == "__main__":
    main()
