"""Bounds of templates: work and memory that small templates ask for are counted before they are spent."""

import resource
from collections.abc import Iterator

import pytest

from fusion.core.errors import PromptError
from fusion.prompts.library import Library
from fusion.prompts.template import Prompts

ROOM = 3 << 30


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A render has one second, and the process no memory for a large text."""
    monkeypatch.setattr("fusion.prompts.limits.MAX_SECONDS", 1.0)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def rendered(source: str) -> str:
    return Prompts(Library([])).template(source).render({"rows": [{"a": "x < y & z", "n": 1.5}]})[0].content


def doubled(times: int, literal: str) -> str:
    """A template that puts the list `n.v` into a new one again and again."""
    loop = "{% for i in range(TIMES) %}{% set n.v = LITERAL %}{% endfor %}"
    return "{% set n = namespace(v=['a']) %}" + loop.replace("TIMES", str(times)).replace("LITERAL", literal)


REFUSED = {
    "format": "{{ '{:>900000000}'.format(1) }}",
    "format by attr": "{{ ('{:>900000000}' | attr('format'))(1) }}",
    "format precision": "{{ '{:.900000000f}'.format(1.5) }}",
    "format nested": "{{ '{:{}}'.format(1, 900000000) }}",
    "format many": "{{ ('{0}' * 90000).format('x' * 900000) | length }}",
    "format shared": doubled(15, "[n.v, n.v, 'x' * 1000]") + "{{ '{}'.format(n.v) | length }}",
    "percent": "{{ '%900000000d' % 1 }}",
    "center": "{{ 'a' | center(900000000) }}",
    "to_bytes": "{{ (5).to_bytes(900000000, 'big') | length }}",
    "encode": "{{ 'x'.encode().ljust(900000000) }}",
    "select in": "{{ range(100000) | select('in', range(100000) | list + ['x']) | list | length }}",
    "operator in": "{% set b = range(100000) | list %}{% for i in b %}{{ 'x' in b }}{% endfor %}",
    "replace": "{{ range(40000) | map('replace', '1', 'z' * 40000) | list | length }}",
    "shared lists": doubled(26, "[n.v, n.v]") + "{{ n.v }}",
    "shared tuples": doubled(60, "(n.v, n.v)") + "{{ n.v | length }}",
    "shared mappings": doubled(60, "{'a': n.v, 'b': n.v}") + "{{ n.v | length }}",
    "shared by dict": doubled(60, "dict(a=n.v, b=n.v)") + "{{ n.v | length }}",
    "shared by product": doubled(60, "[n.v] * 9") + "{{ n.v | length }}",
    "shared without a loop": "{% set a0 = ['x'] %}"
    + "".join(f"{{% set a{n + 1} = [a{n}, a{n}] %}}" for n in range(40))
    + "{{ a40 | length }}",
    "shared as text": doubled(20, "[n.v, n.v]") + "{{ n.v | string | length }}",
    "shared as json": doubled(15, "[n.v, n.v, 'x' * 1000]") + "{{ n.v | tojson | length }}",
    "shared and compared": doubled(18, "[n.v, n.v]") + "{% for i in range(9999) %}{{ n.v == n.v + [] }}{% endfor %}",
    "joined": "{% set s = 'x' * 1000000 %}{{ ([s] * 100) | join | length }}",
    "mapped": "{% set s = 'x' * 1000000 %}{{ ([s] * 100) | map('upper') | list | length }}",
    "stripped": "{% set s = 'x' * 1000000 %}{{ s.strip('y' * 1000000) }}",
    "trimmed": "{% set s = 'x' * 1000000 %}{{ s | trim('y' * 1000000) }}",
    "rounded": "{{ 1.5 | round(1000000000, 'ceil') }}",
    "indented": "{{ ('a\n' * 400000) | indent(64) | indent(64) | length }}",
    "titles": "{% for i in range(100000) %}{{ ('abc ' * 200000) | title | length }}{% endfor %}",
    "counted": "{% for i in range(100000) %}{{ ('a' * 900000).count('aab') }}{% endfor %}",
    "greatest": "{% for i in range(100000) %}{{ range(100000) | max }}{% endfor %}",
    "macros": "{% macro m(x) %}{{ m(x) }}{{ m(x) }}{% endmacro %}{{ m(1) }}",
}


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_asks_for_too_much_is_refused(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PromptError):
        rendered(REFUSED[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 'a' in 'abc' }} {{ 2 not in [1] }}", "true false true true"),
        ("{{ [3, 1, 2] | sort | join(',') }} {{ [1, 1, 2] | unique | list }}", "1,2,3 [1, 2]"),
        ("{{ ('<!--x-->' * 100000) | striptags }}<b>bold</b> &amp;", "<b>bold</b> &amp;"),
        ("{{ '<!-- never <b>closed</b>' | striptags }}", "<!-- never <b>closed</b>"),
        ("{{ '<b>bold</b> <!-- a > b -->\n &amp; more' | striptags }}", "bold & more"),
        ("{{ ([['a'] * 1000] * 900) | sum(start=[]) | length }}", "900000"),
        ("{% for n in range(20000) %}{% if n | string | fence | length == 0 %}x{% endif %}{% endfor %}done", "done"),
        ("{{ '{:>6.2f}|{a}'.format(2.5, a='b') }}", "2.50|b"),
        ("{{ '  xx  ' | trim }}{{ 'aXa' | trim('a') }} {{ 2.345 | round(2) }}", "xxX 2.35"),
        ("{{ rows[0].a | tojson }} {{ rows[0].a | json }}", '"x < y & z" "x < y & z"'),
        ("{{ rows | map(attribute='n') | sum }} {{ rows | selectattr('n', 'gt', 1) | list | length }}", "1.5 1"),
    ],
)
def test_what_fits_is_rendered(source: str, text: str) -> None:
    assert rendered(source) == text


LINES = "one\u2028a\x85b\x0bc\x0cd\x1ce\r\ntwo\n\nfour\n"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ text.splitlines() | length }}", "4"),
        ("{{ text.splitlines() | select | list | length }}", "3"),
        ("{{ text.splitlines()[1] }}|{{ text.splitlines(true)[0] | length }}", "two|15"),
        ("{{ text | indent(2) }}", "one\u2028a\x85b\x0bc\x0cd\x1ce\n  two\n\n  four"),
        ("{{ ''.splitlines() | length }}{{ 'a'.splitlines() | length }}{{ '\n'.splitlines() | length }}", "011"),
    ],
)
def test_lines_end_at_line_feeds_only(source: str, text: str) -> None:
    assert Prompts(Library([])).template(source).render({"text": LINES})[0].content == text


@pytest.mark.parametrize("source", ["{{ 'nan' | float | json }}", "{{ [1e308 * 10] | tojson }}"])
def test_what_is_no_number_of_json_is_not_printed_as_one(source: str) -> None:
    with pytest.raises(PromptError, match="JSON cannot hold"):
        rendered(source)
