"""Who reads what: the material, the request, sections of long material, and what a reviewer is shown."""

import json
from typing import Any

import pytest

from fusion import Pipeline, PipelineError
from fusion.core.errors import InputError
from fusion.core.events import Decided
from fusion.core.types import Request
from tests.cli.conftest import apart
from tests.conftest import run, said

ACCEPT = json.dumps({"issues": [], "verdict": "accept"})
WORDS = "The warden counts the tolls of the bridge and writes them into the ledger of the town. "


def town(number: int, fee: str) -> str:
    return f"## Town {number}\n\nThe fee of Town {number} is {fee} crowns. {WORDS * 8}"


LONG = "\n\n".join(town(number, str(100 + number)) for number in range(1, 13))
SHORT = "\n\n".join(f"## Town {number}\n\nThe fee is {100 + number}." for number in range(1, 5))


def subtask(title: str, **more: Any) -> dict[str, Any]:
    own = {"title": title, "instructions": f"Find the fee of {title}.", "needs": [], "difficulty": 1}
    rest = {"capabilities": [], "expected_output": "the fee", "criteria": []}
    return {**own, "sections": [], **rest, **more}


def plan(*subtasks: dict[str, Any], **head: Any) -> str:
    goal = {"goal": "g", "constraints": [], "merge_instructions": "m"}
    return json.dumps({**goal, **head, "subtasks": subtasks})


class Frontier:
    """Plans as it is told, accepts everything, and merges."""

    def __init__(self, plan_text: str, answer: str = "merged") -> None:
        self.plan_text = plan_text
        self.answer = answer
        self.asked: dict[str, list[Request]] = {"plan": [], "verdict": [], "merge": []}

    def __call__(self, request: Request) -> str:
        properties = (request.json_schema or {}).get("properties", {})
        step = "plan" if "subtasks" in properties else "verdict" if "verdict" in properties else "merge"
        self.asked[step].append(request)
        return {"plan": self.plan_text, "verdict": ACCEPT, "merge": self.answer}[step]


def played(fusion: Any, frontier: Frontier, work: Any, material: str = LONG, **more: Any) -> Any:
    models: dict[str, Any] = {"frontier": frontier, "bulk": work}
    return run(
        fusion(models), "What are the fees?", pipeline="plan-execute-review", inputs={"context": material}, **more
    )


def texts(requests: list[Request]) -> list[str]:
    return [said(request) for request in requests]


# Sections.


def test_over_long_material_each_role_reads_its_own_part(fusion: Any) -> None:
    frontier = Frontier(plan(subtask("Town 3", sections=[3]), subtask("Town 7", sections=[7, 8])))
    worked: list[Request] = []

    def work(request: Request) -> str:
        worked.append(request)
        return "The fee is 103."

    result, events = played(fusion, frontier, work)
    assert result.text == "merged"
    (planned,) = texts(frontier.asked["plan"])
    assert "\n3 Town 3 (" in planned
    assert "The fee of Town 3" not in planned
    third, seventh = sorted(texts(worked), key=lambda text: "Town 7" in text.split("Do this one subtask")[1])
    assert "The fee of Town 3 is 103 crowns." in third
    assert "Town 4" not in third
    assert "The fee of Town 7 is 107" in seventh
    assert "The fee of Town 8 is 108" in seventh
    assert "Town 3" not in seventh
    for verdict in texts(frontier.asked["verdict"]):
        assert ("The fee of Town 3" in verdict) != ("The fee of Town 7" in verdict)
        assert "What are the fees?" not in verdict
    (merged,) = texts(frontier.asked["merge"])
    assert "The fee of Town" not in merged
    (decided,) = [event for event in events if isinstance(event, Decided)]
    assert decided.decision == "outline"
    assert decided.reason.startswith("12 sections, ")
    assert any("9 of 12 sections are in no subtask: 1 to 2, 4 to 6, 9 to 12" in note for note in result.notes)


def test_short_material_is_read_whole_by_planner_and_workers(fusion: Any) -> None:
    frontier = Frontier(plan(subtask("Town 3")))
    worked: list[str] = []
    result, events = played(fusion, frontier, lambda request: worked.append(said(request)) or "103", SHORT)
    for text in (*texts(frontier.asked["plan"]), *worked, *texts(frontier.asked["verdict"])):
        assert "The fee is 104." in text
    schema = frontier.asked["plan"][0].json_schema
    assert schema is not None
    assert "sections" not in schema["properties"]["subtasks"]["items"]["properties"]
    assert [event.decision for event in events if isinstance(event, Decided)] == ["whole"]
    assert not result.notes


def test_no_material_needs_no_word_about_it(fusion: Any) -> None:
    result, events = played(fusion, Frontier(plan(subtask("a part"))), "done", "")
    assert result.status == "ok"
    assert not [event for event in events if isinstance(event, Decided)]


@pytest.mark.parametrize(
    ("named", "read", "note"),
    [
        ([3, 99], [3], "names section 99"),
        ([0, "3", True, 5], [5], "names section 0"),
        ([3, 3], [3], ""),
        (list(range(1, 13)), list(range(1, 9)), "names 12 sections; it reads 8"),
        ("3", [], ""),
        ([], [], ""),
    ],
)
def test_a_subtask_reads_the_sections_that_there_are(fusion: Any, named: Any, read: list[int], note: str) -> None:
    worked: list[str] = []
    frontier = Frontier(plan(subtask("A", sections=named)))
    result, _ = played(fusion, frontier, lambda request: worked.append(said(request)) or "x")
    (text,) = worked
    assert [number for number in range(1, 13) if f"The fee of Town {number} is" in text] == read
    assert note == "" or any(note in one for one in result.notes)


@pytest.mark.parametrize(
    ("title", "named", "read"),
    [
        ("Town 3", [4], [3]),
        ("town 3:", [4, 5], [3]),
        ("Towns", [12], [3, 4]),
        ("Towns > Town 4", [1], [4]),
        ("Town 3", [3, 4], [3, 4]),  # right, and more
        ("Town 3", [], []),  # joins results
        ("Fee of Town 3", [4], [4]),
        ("3", [4], [4]),
        ("Town 99", [4], [4]),
        ("", [4], [4]),
    ],
)
def test_a_subtask_called_as_a_heading_reads_its_sections_if_it_miscounts(
    fusion: Any, title: str, named: list[int], read: list[int]
) -> None:
    worked: list[str] = []
    frontier = Frontier(plan(subtask(title, sections=named)))
    parts = [town(number, str(100 + number)) for number in range(1, 13)]
    parts[2:4] = ["# Towns", *parts[2:4], "# Others"]
    result, _ = played(fusion, frontier, lambda request: worked.append(said(request)) or "x", "\n\n".join(parts))
    (text,) = worked
    assert [number for number in range(1, 13) if f"The fee of Town {number} is" in text] == read
    miscounted = bool(named) and set(read).isdisjoint(named)
    assert any("is called" in note and "it reads" in note for note in result.notes) is miscounted


def test_sections_named_by_a_needed_result_are_shown(fusion: Any) -> None:
    frontier = Frontier(plan(subtask("Highest", sections=[1]), subtask("Join", needs=[1], sections=[])))
    worked: list[str] = []

    def work(request: Request) -> str:
        worked.append(said(request))
        return "The highest fee is that of Town 9."

    played(fusion, frontier, work)
    assert "The fee of Town 9 is" in worked[1]
    assert "The fee of Town 8 is" not in worked[1]


def test_a_worker_whose_sections_lack_something_is_given_more_once(fusion: Any) -> None:
    frontier = Frontier(plan(subtask("Fee of Town 9", sections=[2])))
    worked: list[str] = []

    def work(request: Request) -> str:
        worked.append(said(request))
        if "Town 9 is 109" in worked[-1]:
            return "The fee is 109."
        return "NOT IN SECTIONS: the fee of Town 9"

    result, _ = played(fusion, frontier, work)
    assert len(worked) == 2
    assert result.status == "ok"
    assert any("the fee of Town 9; working it once more with 9" in note for note in result.notes)
    (verdict,) = texts(frontier.asked["verdict"])
    assert "NOT IN SECTIONS" not in verdict
    assert "The fee of Town 9 is 109" in verdict


def test_a_worker_that_finds_nothing_twice_fails_its_item_alone(fusion: Any) -> None:
    frontier = Frontier(plan(subtask("Mars", sections=[2]), subtask("Town 1", sections=[1])))

    def work(request: Request) -> str:
        return "NOT IN SECTIONS: Mars." if "fee of Mars" in said(request) else "101"

    result, _ = played(fusion, frontier, work)
    assert result.status == "partial"
    assert [part.failure.message for part in result.failed if part.stage == "work"] == [
        "the material has no section with what it needs: Mars"
    ]


SHAPED = """
inputs: {task: t, context: {default: "", stdin: true}}
stages:
  plan: {kind: plan}
  work: {kind: map, over: plan, role: bulk, schema: {fee: integer}}
output: work | map(attribute="value") | list
"""


def test_data_says_in_a_property_of_its_own_that_sections_lack_something(fusion: Any) -> None:
    asked: list[Request] = []

    def work(request: Request) -> str:
        asked.append(request)
        found = "Town 9 is 109" in said(request)
        return json.dumps({"fee": 109 if found else 0, "not_in_sections": None if found else "the fee of Town 9"})

    models = {"frontier": plan(subtask("Fee of Town 9", sections=[2])), "bulk": work}
    pipeline = Pipeline.from_yaml(SHAPED)
    result, _ = run(fusion(models), "fees?", pipeline=pipeline, inputs={"context": LONG})
    assert result.data == [{"fee": 109}]
    assert [list((one.json_schema or {})["properties"]) for one in asked] == [["fee", "not_in_sections"]] * 2


def test_a_plan_of_one_s_own_sections(fusion: Any) -> None:
    text = """
inputs: {task: t, book: {default: "", stdin: true}}
stages:
  parts: {kind: split, text: inputs.book, by: separator, separator: "---"}
  plan: {kind: plan, sections: parts}
  work: {kind: map, over: plan, role: bulk}
output: work
"""
    worked: list[str] = []
    models = {
        "frontier": plan(subtask("B", sections=[2])),
        "bulk": lambda request: worked.append(said(request)) or "x",
    }
    run(fusion(models), "do", pipeline=Pipeline.from_yaml(text), inputs={"book": "one---\ntwo---\nthree"})
    assert "two---" in worked[0]
    assert "three" not in worked[0]


def test_without_an_outline_the_planner_reads_every_section_under_its_number(fusion: Any) -> None:
    text = SHAPED.replace("{kind: plan}", "{kind: plan, outline: never}")
    frontier = Frontier(plan(subtask("Town 9", sections=[9])))
    models = {"frontier": frontier, "bulk": json.dumps({"fee": 9, "not_in_sections": None})}
    _, events = run(fusion(models), "fees?", pipeline=Pipeline.from_yaml(text), inputs={"context": LONG})
    (planned,) = texts(frontier.asked["plan"])
    assert "<section 9 " in planned
    assert "The fee of Town 9 is 109" in planned
    assert [event.decision for event in events if isinstance(event, Decided)] == ["numbered"]


@pytest.mark.parametrize("reads", ["all", "none"])
def test_a_plan_that_does_not_read_an_outline_makes_no_sections(fusion: Any, reads: str) -> None:
    text = SHAPED.replace("{kind: plan}", f"{{kind: plan, reads: {reads}}}")
    frontier, worked = Frontier(plan(subtask("Town 9", sections=[9]))), []

    def work(request: Request) -> str:
        worked.append(said(request))
        return json.dumps({"fee": 9})

    run(
        fusion({"frontier": frontier, "bulk": work}),
        "f?",
        pipeline=Pipeline.from_yaml(text),
        inputs={"context": LONG},
    )
    assert ("The fee of Town 9" in texts(frontier.asked["plan"])[0]) is (reads == "all")
    assert "The fee of Town 1 is" in worked[0]
    assert "The fee of Town 12 is" in worked[0]


def test_frontier_input_over_60_sections_is_a_fraction_of_one_call() -> None:
    from benchmarks.reading.measure import measure

    assert measure(12).ratio < 0.55
    assert measure(5).ratio < 0.30


# Request and material.


@pytest.mark.parametrize(
    ("inputs", "stages", "request_is", "material"),
    [
        ("{task: t, context: {default: '', stdin: true}}", "", "T", {"context"}),
        ("{question: q}", "", "T", set()),
        ("{text: {stdin: true}}", "", "T", set()),  # alone, standard input is the request
        ("{task: t, lines: x}", "  m: {kind: map, over: inputs.lines.split(), prompt: a b}\n", "T", {"lines"}),
        ("{task: t, style: {default: dry}}", "", "T", {"style"}),  # no template reads it by name
        ("{task: t, style: {default: dry, material: false}}", "", "T", set()),
        ("{note: {material: true}, task: {default: T2}}", "", "T2", {"note"}),
        ("{rows: {format: csv}, task: {default: T2}}", "", "T2", {"rows"}),
    ],
)
def test_the_request_is_the_question_and_never_the_material(
    fusion: Any, inputs: str, stages: str, request_is: str, material: set[str]
) -> None:
    text = (
        f"inputs: {inputs}\nstages:\n{stages}  a: {{kind: generate, role: bulk, "
        f"prompt: 'request={{{{ request }}}} material={{{{ material }}}}', needs: [{'m' if stages else ''}]}}\n"
        "output: a"
    )
    given = {"context": "MATERIAL", "lines": "MATERIAL", "style": "MATERIAL", "note": "MATERIAL"}
    pipeline = Pipeline.from_yaml(text)
    values = {name: value for name, value in given.items() if name in pipeline.inputs}
    if "rows" in pipeline.inputs:
        values["rows"] = "a\n1\n"
    prompt = None if "note" in pipeline.inputs or "rows" in pipeline.inputs else "T"
    result, _ = run(fusion({"bulk": said}), prompt, pipeline=pipeline, inputs=values)
    assert f"request={request_is} " in result.text
    assert ("MATERIAL" in result.text.partition("material=")[2]) is bool(material - {"rows"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "inputs: {lines: x}\nstages:\n  m: {kind: map, over: inputs.lines.split(), prompt: '{{ request }}'}\n"
            "output: m",
            "stages.m.prompt: the template prints `request`, which is always empty",
        ),
        (
            "inputs: {lines: x}\nstages:\n  m: {kind: map, over: inputs.lines.split()}\noutput: m",
            "which is always empty",
        ),
        (
            "inputs: {q: x}\nstages:\n  a: {kind: generate, reads: all, prompt: '{{ inputs.q }}'}\noutput: a",
            "stages.a.reads: no template of the stage prints `material`, so `reads` has no effect",
        ),
        (
            "inputs: {q: x}\nstages:\n  a: {kind: generate, reads: item}\noutput: a",
            "`reads: item` is for stages that work on items one by one",
        ),
        (
            "inputs: {q: x}\nstages:\n  m: {kind: map, over: '[1]', prompt: a b}\n"
            "  r: {kind: review, over: m, prompt: 'Judge {{ item.value }}'}\noutput: r",
            "stages.r.prompt: a review has to see what it judges against",
        ),
        (
            "inputs: {q: x}\nstages:\n  m: {kind: map, over: '[1]', prompt: a b}\n"
            "  r: {kind: review, over: m, batch: 2, batch_prompt: '{{ items[0].value }}'}\noutput: r",
            "stages.r.batch_prompt: a review has to see",
        ),
        (
            "inputs: {q: x}\nstages:\n  p: {kind: plan, reads: all, outline: never}\noutput: p",
            "`outline` has an effect with `reads: outline` only",
        ),
    ],
)
def test_a_reading_without_effect_is_refused(fusion: Any, text: str, says: str) -> None:
    with pytest.raises(PipelineError) as caught:
        run(fusion({"bulk": "x", "frontier": "x"}), "q", pipeline=Pipeline.from_yaml(text, file="p.yaml"))
    assert says in str(caught.value)


@pytest.mark.parametrize("view", ["{{ item.shown }}", "{{ item.source }}", "{{ material }}", "{{ inputs.q }}"])
def test_a_review_may_show_what_it_judges_against_in_any_way(fusion: Any, view: str) -> None:
    text = (
        "inputs: {q: x}\nstages:\n  m: {kind: map, over: '[1]', role: bulk, prompt: say it}\n"
        f"  r: {{kind: review, over: m, prompt: '{view} {{{{ item.value }}}}'}}\noutput: r"
    )
    result, _ = run(fusion({"bulk": "x", "frontier": ACCEPT}), "q", pipeline=Pipeline.from_yaml(text))
    assert result.status == "ok"


def test_a_stage_named_like_a_new_variable_keeps_its_meaning(fusion: Any) -> None:
    text = """
inputs: {q: x}
stages:
  material: {kind: generate, role: bulk, prompt: "one {{ inputs.q }}"}
  computed: {kind: map, over: "[1]", role: bulk, prompt: "{{ material }} two"}
  last: {kind: merge, over: computed, role: bulk, prompt: "{{ computed[0].value }} {{ material }} three"}
output: last
"""
    result, _ = run(fusion({"bulk": said}), "q", pipeline=Pipeline.from_yaml(text))
    assert result.text == "one q two one q three"


def test_an_item_stage_that_prints_the_whole_material_is_noted(fusion: Any, tmp_path: Any) -> None:
    text = (
        "inputs: {task: t, lines: {stdin: true}}\nstages:\n"
        "  m: {kind: map, over: inputs.lines.splitlines(), role: bulk, "
        "prompt: 'In {{ inputs.lines }} do {{ inputs.task }} with {{ item.source }}'}\noutput: m"
    )
    result, _ = run(fusion({"bulk": "x"}), "q", pipeline=Pipeline.from_yaml(text), inputs={"lines": "a\nb"})
    assert [note for note in result.notes if "prints all of `inputs.lines` for every item" in note]
    (tmp_path / "p.yaml").write_text(text)
    ran = apart("validate", str(tmp_path / "p.yaml"))
    assert (ran.code, ran.out.endswith(": ok\n")) == (0, True)
    assert "stages.m.prompt prints all of `inputs.lines`" in ran.err


# What was shown.


def test_items_keep_what_they_were_written_from_only_while_a_later_template_reads_it(fusion: Any) -> None:
    frontier = Frontier(plan(subtask("Town 3", sections=[3])))
    result, _ = played(fusion, frontier, "103")
    assert [item.shown is None for item in result.stages["work"].items] == [False]
    assert [item.shown for item in result.stages["review"].items] == [None]
    assert "shown" not in result.model_dump_json()


def test_a_revision_is_written_from_what_the_first_value_was(fusion: Any) -> None:
    revise = json.dumps({"issues": [{"quote": "1", "problem": "it is 103"}], "verdict": "revise"})
    frontier, asked = Frontier(plan(subtask("Town 3", sections=[3]))), []
    verdicts = iter([revise, ACCEPT])

    def strong(request: Request) -> str:
        if "verdict" in (request.json_schema or {}).get("properties", {}):
            return next(verdicts)
        return frontier(request)

    def work(request: Request) -> str:
        asked.append(said(request))
        return "103"

    run(
        fusion({"frontier": strong, "bulk": work}),
        "fees?",
        pipeline="plan-execute-review",
        inputs={"context": LONG},
    )
    assert len(asked) == 2
    assert "The fee of Town 3 is 103 crowns." in asked[1]
    assert "it is 103" in asked[1]
    assert "Town 4" not in asked[1]
    assert "fees?" not in asked[1]


# Columns.


@pytest.mark.parametrize("name", ["value", "source", "index", "ok", "shown", "failure"])
def test_a_column_that_a_field_of_the_item_hides_is_refused_with_what_to_write(fusion: Any, name: str) -> None:
    text = (
        "inputs: {rows: {format: csv}}\nstages:\n"
        f"  m: {{kind: map, over: inputs.rows, role: bulk, prompt: 'x {{{{ item.{name} }}}}'}}\noutput: m"
    )
    pipeline = Pipeline.from_yaml(text)
    with pytest.raises(InputError, match=rf"stages\.m\.prompt: .*write `item\.source\.{name}`"):
        run(fusion({"bulk": said}), None, pipeline=pipeline, inputs={"rows": f"name,{name}\nAda,7\n"})
    always = Pipeline.from_yaml(text.replace(f"item.{name}", f"item.source.{name}"))
    result, _ = run(fusion({"bulk": said}), None, pipeline=always, inputs={"rows": f"name,{name}\nAda,7\n"})
    assert result.data == ["x 7"]


@pytest.mark.parametrize("name", ["by", "confidence", "needs"])
def test_what_says_how_an_item_was_made_is_no_field_of_a_row(fusion: Any, name: str) -> None:
    text = (
        "inputs: {rows: {format: csv}}\nstages:\n"
        f"  m: {{kind: map, over: inputs.rows, role: bulk, prompt: 'x {{{{ item.{name} }}}}'}}\noutput: m"
    )
    with pytest.raises(PipelineError, match=rf"write item\.source\.{name}"):
        run(fusion({"bulk": said}), None, pipeline=Pipeline.from_yaml(text), inputs={"rows": "a\n1\n"})
