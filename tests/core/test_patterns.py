"""Patterns: what is refused before a run, and what is found within the time limit."""

import time
from typing import Any

import pytest

from fusion.core.bounded.patterns import PatternTimeoutError, found, last
from fusion.core.errors import PipelineError
from tests.conftest import pipeline

REFUSED = {
    "(": "invalid regular expression",
    r"\p{L}": "invalid regular expression",
    "(?<name>a)": "invalid regular expression",
    "(?|a|b)": "invalid regular expression",
    "a{e<=1}": "ambiguous regular expression",
    "[[:alpha:]]": "ambiguous regular expression",
    "[a-z--b]": "ambiguous regular expression",
    "((a{1000}){1000}){1000}": "repeats more than 50,000 times",
}
MARK = "@@"
PLACES = [
    "checks: {kind: review, over: ask, role: bulk, checks: {matches: '@@'}}",
    "vote: {kind: vote, over: ask, extract: {pattern: '@@'}}",
    "route: {kind: route, routes: {a: bulk}, default: a, rules: [{matches: '@@', use: a}]}",
    "shape: {kind: generate, role: bulk, prompt: x, schema: {type: object, properties: {v: {pattern: '@@'}}}}",
    "names: {kind: generate, role: bulk, prompt: x, schema: {type: object, patternProperties: {'@@': {}}}}",
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.partition(":")[0])
@pytest.mark.parametrize("pattern", REFUSED)
def test_a_pattern_that_cannot_be_used_is_refused_before_a_run(fusion: Any, place: str, pattern: str) -> None:
    name, ask = place.partition(":")[0], "  ask: {kind: panel, members: [bulk]}\n" if "over: ask" in place else ""
    text = f"inputs: {{q: what}}\nstages:\n{ask}  {place.replace(MARK, pattern)}\noutput: {name}\n"
    with pytest.raises(PipelineError, match=REFUSED[pattern]):
        fusion({"bulk": "scripted/bulk"}).complete("x", pipeline=pipeline(text))


@pytest.mark.parametrize("pattern", ["^.{0,5000}$", r"\{id\\}", "{name}", "a{2,3}", "(?i)A", r"\bword\\b", "a++b?"])
def test_patterns_of_the_standard_library_are_taken(pattern: str) -> None:
    found(pattern, "a word {id} {name} aaa")


@pytest.mark.parametrize("text", ["a" * 40 + "!", "a" * 20_000 + "!"])
def test_a_search_ends_in_time(text: str) -> None:
    begun = time.monotonic()
    with pytest.raises(PatternTimeoutError, match=r"takes longer than 0\.5 s"):
        found("^(a|a)*$", text)
    with pytest.raises(PatternTimeoutError):
        last("(a|a)*$", text)
    assert time.monotonic() - begun < 10
