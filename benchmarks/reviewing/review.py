"""Verdicts of a reviewer on planted errors and on answers that address it: the share of wrong ones accepted.

python -m benchmarks.reviewing.review run dev|test|planted [--prompt NAME] [--model local/strong] [--results FILE]
python -m benchmarks.reviewing.review show [--results FILE]
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.perf.figures import machine
from fusion import Fusion, InputSpec, Map, Pipeline, Request, Review, RunFailed, ScriptedModel
from fusion.bench.report.statistics import wilson
from fusion.stages.text.checks import Checks

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
SHIPPED = "review/default"
NUMBERS = "numbers"


class Case(NamedTuple):
    """A worker's answer to a task over some material, and its correctness."""

    id: str
    kind: str
    material: str
    task: str
    answer: str


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reviewing.review", description=__doc__)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("part", choices=("dev", "test", "planted"))
    running.add_argument(
        "--prompt",
        default="shipped",
        help="`shipped`, a template in prompts/, or `numbers`, a free check",
    )
    running.add_argument("--model", default="local/strong")
    running.add_argument("--limit", type=int, help="no more cases than this; the next time goes on behind them")
    running.set_defaults(do=run)
    showing = commands.add_parser("show")
    showing.set_defaults(do=show)
    for one in (running, showing):
        one.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.do(given)


def cases(part: str) -> Iterator[Case]:
    """Return right and wrong answers of the part; of `planted`, wrong answers that address the reviewer."""
    rows = [json.loads(line) for line in (HERE / "errors.jsonl").read_text().splitlines()]
    if part != "planted":
        for row in rows:
            for kind in ("right", "wrong") if row["part"] == part else ():
                yield Case(row["id"], kind, row["material"], row["task"], row[kind])
        return
    by_id = {row["id"]: row for row in rows}
    for line in (HERE / "planted.jsonl").read_text().splitlines():
        plant = json.loads(line)
        row = by_id[plant["case"]]
        said = plant["plant"].replace("{right}", row["right"])
        parts = [said, row["wrong"]] if plant["where"] == "before" else [row["wrong"], said]
        yield Case(plant["id"], "planted", row["material"], row["task"], "\n\n".join(parts))


def pipeline(prompt: str) -> Pipeline:
    """Return a pipeline of a worker and a reviewer without revision."""
    checks = Checks(numbers_from="inputs.context") if prompt == NUMBERS else None
    template = SHIPPED if prompt in ("shipped", NUMBERS) else (HERE / "prompts" / f"{prompt}.md.j2").read_text()
    review = Review(
        over="work",
        role="reviewer",
        prompt=template,
        reads=None if template == SHIPPED else "all",
        revisions=0,
        min_ok=0,
        max_tokens=500,
        checks=checks,
    )
    return Pipeline(
        name="reviewing",
        inputs={"task": InputSpec(material=False), "context": InputSpec(material=True)},
        stages={
            "work": Map(
                over="[inputs.task]",
                role="worker",
                prompt="{{ inputs.context|fence('context') }}\n\n{{ item.source }}",
            ),
            "review": review,
        },
        output="review.verdicts",
    )


def run(given: argparse.Namespace) -> None:
    """Ask about every case without a result, and write each verdict as it comes."""
    print(machine())
    if given.prompt == NUMBERS:
        given.model = "none"
    rows = read(given.results)
    done = {(row["id"], row["kind"]) for row in rows if (row["prompt"], row["model"]) == (given.prompt, given.model)}
    todo = [case for case in cases(given.part) if (case.id, case.kind) not in done][: given.limit]
    asked = pipeline(given.prompt)
    answers = {case.task: "" for case in todo}
    worker = ScriptedModel(lambda request: answers[_task(request)], name="scripted/worker")
    accepting = ScriptedModel({"issues": [], "verdict": "accept"}, name="scripted/reviewer")
    reviewer = accepting if given.prompt == NUMBERS else given.model
    with Fusion(profile="local", roles={"reviewer": reviewer, "worker": worker}) as fusion:
        for case in todo:
            answers[case.task] = case.answer
            row = {"prompt": given.prompt, "model": given.model, "part": given.part, **verdict(fusion, asked, case)}
            with given.results.open("a") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(machine())
    show(given)


def verdict(fusion: Fusion, asked: Pipeline, case: Case) -> dict[str, Any]:
    """Return the reviewer's verdict on a case, "none" if it cannot be read."""
    begun = time.monotonic()
    try:
        result = fusion.complete(pipeline=asked, inputs={"task": case.task, "context": case.material})
    except RunFailed as failed:
        result = failed.result
    said = result.data[0] if result.data else {"verdict": "none", "issues": []}
    return {
        "id": case.id,
        "kind": case.kind,
        "verdict": said["verdict"],
        "issues": said["issues"],
        "output": sum(line.usage.output for line in result.receipt.lines if line.role == "reviewer"),
        "seconds": round(time.monotonic() - begun, 1),
    }


def _task(request: Request) -> str:
    """Return the task of a worker's request, which is below the material."""
    return request.messages[-1].content.partition("</context ")[2].partition("\n\n")[2]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def show(given: argparse.Namespace) -> None:
    print("\n".join(lines(read(given.results))))


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield for each prompt the wrong answers caught and the right ones refused."""
    yield f"{'part':9}{'model':14}{'prompt':10}{'wrong ones caught':>26}{'right ones refused':>26}{'seconds':>9}"
    for part, model, prompt in sorted({(row["part"], row["model"], row["prompt"]) for row in rows}):
        of = [row for row in rows if (row["part"], row["model"], row["prompt"]) == (part, model, prompt)]
        caught = rate(row["verdict"] != "accept" for row in of if row["kind"] != "right")
        refused = rate(row["verdict"] != "accept" for row in of if row["kind"] == "right")
        seconds = sum(row["seconds"] for row in of) / len(of)
        yield f"{part:9}{model:14}{prompt:10}{caught:>26}{refused:>26}{seconds:9.1f}"


def rate(hits: Iterable[bool]) -> str:
    """Return k of n with its share and Wilson's interval."""
    found = list(hits)
    if not found:
        return "-"
    interval = wilson(sum(found), len(found))
    return f"{sum(found)} of {len(found)} ({interval.low:.0%} to {interval.high:.0%})"


if __name__ == "__main__":
    main()
