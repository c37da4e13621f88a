"""Subjects: every shipped pipeline, the example of every kind, and pipelines of the tests."""

from functools import cache
from random import Random
from typing import Any

from fusion import Pipeline
from fusion.prompts.library import Library
from fusion.stages.registry import kinds

__all__ = ["given", "pipelines"]

_OWN = {
    "shapes-reviewed": """
inputs: {notes: Notes}
stages:
  read:
    kind: map
    over: inputs.notes.splitlines()
    role: bulk
    schema: {supplier: string, amount: number}
    prompt: "Supplier and amount: {{ item.source | fence }}"
  check: {kind: review, over: read, role: frontier, checks: {max_length: 150}, criteria: True to the note.}
output: check
""",
    "in-batches": """
inputs: {notes: Notes}
stages:
  read:
    kind: map
    over: inputs.notes.splitlines()
    role: bulk
    prompt: "Sum up: {{ item.source | fence }}"
    max_tokens: 800
  check: {kind: review, over: read, role: frontier, batch: 5, revisions: 2, escalate_to: frontier}
  answer: {kind: merge, over: check, role: frontier}
output: answer
""",
    "cut-short": """
inputs: {task: A task}
stages: {answer: {kind: generate, role: frontier, max_tokens: 300, continuations: 4}}
output: answer
""",
    "nested": """
inputs: {topics: Topics}
stages:
  first: {kind: pipeline, pipeline: single, inputs: {task: "'Write about ' ~ inputs.topics"}}
  second: {kind: pipeline, pipeline: plan-execute-review, inputs: {task: "'Judge: ' ~ first.text"}}
  answer: {kind: generate, role: bulk, prompt: "{{ first.text }} and {{ second.text }}"}
output: answer
""",
    "conditional": """
inputs: {question: A question}
stages:
  draft: {kind: generate, role: bulk, schema: {answer: string, sure: boolean}}
  better:
    kind: generate
    role: frontier
    when: not draft.data.sure
    prompt: "{{ request }} {{ draft.data.answer }}"
    default: ""
output: better.text ~ draft.text
""",
    "judged-tiers": """
inputs: {question: A question}
stages:
  answer: {kind: cascade, tiers: [bulk, second, frontier], accept: {judge: second, confidence: 0.5}, max_tokens: 2000}
output: answer
""",
    "ways": """
inputs: {question: A question}
stages:
  answer:
    kind: route
    routes:
      easy: bulk
      hard: {kind: generate, role: frontier, max_tokens: 3000}
      wide: {kind: panel, members: [bulk, second, frontier]}
    classifier: bulk
    default: easy
output: answer
""",
    "two-maps": """
inputs: {notes: Notes}
stages:
  first: {kind: map, over: inputs.notes.splitlines(), role: bulk, prompt: "Say more on: {{ item.source }}"}
  second: {kind: map, over: first, role: second, prompt: "Shorten: {{ item.value | fence }}", max_tokens: 500}
  page: {kind: render, template: "{% for one in second if one.ok %}{{ one.value }}\\n{% endfor %}"}
output: page
""",
}  # fmt: skip

_APART = {
    "draft-approve",
    "code-with-tests",
    *(f"example of {kind}" for kind in ("gate", "python", "tool", "verify")),
}
"""Pipelines that wait for what is no model: a person, a function, the sandbox."""
_WORDS = ("the", "report", "of", "what", "was", "said", "about", "each", "quay", "in", "harbour", "by", "master")


@cache
def pipelines() -> dict[str, str | Pipeline]:
    """Return pipelines by name: shipped ones as names, the others as objects."""
    found: dict[str, str | Pipeline] = {name: name for name in sorted(Library.standard().pipelines)}
    for kind, cls in sorted(kinds().items()):
        if cls.estimate.example and kind != "pipeline":
            found[f"example of {kind}"] = Pipeline.from_yaml(cls.estimate.example, file=f"{kind}.yaml")
    for name, text in _OWN.items():
        found[name] = Pipeline.from_yaml(text, file=f"{name}.yaml")
    return {name: one for name, one in found.items() if name not in _APART}


def given(pipeline: Pipeline, random: Random) -> dict[str, Any]:
    """Return a value for each required input, and for most of the others."""
    return {
        name: _text(name, random)
        for name, spec in pipeline.inputs.items()
        if spec.required or spec.stdin or random.random() < 0.7
    }


def _text(name: str, random: Random) -> str:
    if name in ("question", "task", "topic"):
        return _words(random, random.randint(8, 150))
    lines = [_words(random, random.randint(6, 25)) for _ in range(random.randint(2, 25))]
    if name == "topics":
        return "; ".join(lines[:4])
    if name in ("context", "document"):
        return "\n\n".join(" ".join(lines) for _ in range(random.randint(1, 12)))
    return "\n".join(lines)


def _words(random: Random, count: int) -> str:
    return " ".join(random.choices(_WORDS, k=count))
