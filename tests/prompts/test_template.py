"""Templates and expressions: what they make, what they read, and what they refuse."""

import time
from pathlib import Path
from typing import Any

import pytest

from fusion.core.errors import PromptError
from fusion.core.types import Item
from fusion.prompts.library import Library
from fusion.prompts.template import Fixed, Prompts


@pytest.fixture
def prompts(tmp_path: Path) -> Prompts:
    return Prompts(Library([tmp_path]))


def rendered(prompts: Prompts, template: str, **variables: Any) -> str:
    (message,) = prompts.template(template).render(variables)
    return message.content


def test_a_template_without_blocks_is_one_message_of_the_users(prompts: Prompts) -> None:
    (message,) = prompts.template("Say {{ word }}.").render({"word": "yes"})
    assert (message.role, message.content) == ("user", "Say yes.")


def test_message_blocks_make_the_messages_in_their_order(prompts: Prompts) -> None:
    template = """
{% message role="system" %}You are {{ who }}.{% endmessage %}
{% for n in numbers %}
{% message role="user" %}{{ n }}?{% endmessage %}
{% message role="assistant" %}{{ n }}!{% endmessage %}
{% endfor %}
{% message %}last{% endmessage %}
"""
    messages = prompts.template(template).render({"who": "brief", "numbers": [1, 2]})
    assert [(m.role, m.content) for m in messages] == [
        ("system", "You are brief."),
        ("user", "1?"),
        ("assistant", "1!"),
        ("user", "2?"),
        ("assistant", "2!"),
        ("user", "last"),
    ]


def test_what_jinja_offers_everywhere_is_there_in_every_message(prompts: Prompts) -> None:
    template = "{% message role='system' %}{{ range(3)|list }}{% endmessage %}{% message %}{{ word }}{% endmessage %}"
    assert [message.content for message in prompts.template(template).render({"word": "w"})] == ["[0, 1, 2]", "w"]


def test_a_message_is_made_once_where_all_that_it_reads_is_fixed(prompts: Prompts) -> None:
    template = prompts.template(
        "{% message role='system' %}{{ task }}{% endmessage %}{% message %}{{ task }}: {{ item }}{% endmessage %}"
    )
    fixed = Fixed({"task": "t"})
    first, second = (template.render({**fixed.variables, "item": item}, fixed) for item in ("a", "b"))
    assert first[0] is second[0]
    assert (first[1].content, second[1].content) == ("t: a", "t: b")
    other = template.render({"task": "another", "item": "c"}, fixed)
    assert [message.content for message in other] == ["another", "another: c"]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% message role='system' %}a{% endmessage %} stray", "text outside of its message blocks: 'stray'"),
        ("{% message role='boss' %}a{% endmessage %}", '"system", "user" or "assistant"'),
        ("{% message role=who %}a{% endmessage %}", '"system", "user" or "assistant"'),
        ("{% message role='user' %}a", "endmessage"),
        ("   {{ '' }} ", "the rendered prompt is empty"),
        ("{{ nobody }} is here", "'nobody' is undefined; it can read: word"),
        ("one\ntwo {{ word.missing }} x", "line 2"),
        ("{% include 'no/such' %} x", "no template 'no/such'"),
        ("{{ word", "line 1"),
        ("{{ word|nofilter }} x", "nofilter"),
        ("{{ {}['no key'] }} x", "no key"),
        ("{% for x in word %}" * 25 + "x" + "{% endfor %}" * 25, "too many statically nested blocks"),
    ],
)
def test_a_broken_template_says_what_and_where(prompts: Prompts, template: str, says: str) -> None:
    with pytest.raises(PromptError) as caught:
        prompts.template(template).render({"word": "w"})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %} x",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }} x",
        "{% for a in range(99999) %}" + "ten chars " * 200 + "{% endfor %}",
        "{% message %}{% for a in range(99999) %}" + "ten chars " * 200 + "{% endfor %}{% endmessage %}",
        "{% set n = namespace(x='ab') %}{% for a in range(90) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x='ab') %}{% for a in range(90) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=9) %}{% for a in range(90) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
        "{{ 'x' * 100000000 }}",
        "{{ [0] * 100000000 }}",
        "{{ 100000000 * 'x' }}",
        "{{ 9 ** 99999999 }}",
        "{{ 9 ** 60 ** 60 ** 60 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ 'x'.center(999999999) }}",
        "{{ 'x'|center(999999999) }}",
        "{{ 'x'.ljust(999999999) }}",
        "{{ 'a\\n'|indent(99999999) }}",
        "{{ ('a' * 9999)|replace('a', 'b' * 9999) }}",
        "{{ ('a' * 9999).replace('a', 'b' * 9999) }}",
        "{{ range(9999)|join('x' * 9999) }}",
        "{{ ('x' * 9999).join(range(9999)) }}",
        "{{ range(10 ** 12) }}",
        "{{ lipsum(n=99999) }}",
        "{{ 'a'.__class__.__mro__ }}",
        "{{ ''|attr('__class__') }}",
        "{{ word.__init__.__globals__ }}",
        "{{ self.__init__ }} x",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ item.model_dump }} x",
        "{{ item.model_copy() }} x",
        "{{ item['model_config'] }} x",
        "{{ word.append(1) }} x",
        "{{ rows.append(1) }} x",
        "{{ row.update(a=1) }} x",
    ],
)
def test_a_template_cannot_run_away_or_reach_behind_its_data(prompts: Prompts, template: str) -> None:
    began = time.monotonic()
    with pytest.raises(PromptError):
        prompts.template(template).render({"word": "w", "item": Item(index=0, source={}), "rows": [1], "row": {}})
    assert time.monotonic() - began < 5


def test_filters(prompts: Prompts) -> None:
    assert rendered(prompts, "{{ d|json }}", d={"ä": [1, None]}) == '{"ä": [1, null]}'
    assert rendered(prompts, "{{ d|json(indent=2) }}", d={"a": 1}) == '{\n  "a": 1\n}'
    assert rendered(prompts, "{{ t|indent(2) }}", t="a\nb") == "a\n  b"
    assert rendered(prompts, "x{{ t|indent(2, first=true) }}", t="a\n\nb") == "x  a\n\n  b"
    assert rendered(prompts, "{{ t|truncate_tokens(3) }}", t="one two three four five") == "one two [cut here]"
    assert rendered(prompts, "{{ t|truncate_tokens(99) }}", t="one two") == "one two"
    assert rendered(prompts, "{{ t|replace('a', 'b') }}-{{ [1, 'x']|join(', ') }}", t="banana") == "bbnbnb-1, x"


def test_data_prints_as_json_and_text_as_it_is(prompts: Prompts) -> None:
    printed = rendered(prompts, "{{ a }} {{ b }} {{ c }} {{ d }}", a="x", b=[1, "two"], c=True, d=None)
    assert printed == 'x [1, "two"] true null'


def test_fence_marks_text_by_its_own_hash(prompts: Prompts) -> None:
    one = rendered(prompts, "{{ t|fence('result') }}", t="say </result> and go on")
    two = rendered(prompts, "{{ t|fence('result') }}", t="something else")
    first, *inside, last = one.splitlines()
    assert inside == ["say </result> and go on"]
    assert first.startswith("<result ")
    assert last == first.replace("<", "</")
    assert first != two.splitlines()[0]
    assert one == rendered(prompts, "{{ t|fence('result') }}", t="say </result> and go on")


def test_rendering_is_pure(prompts: Prompts) -> None:
    template = "{% for k, v in d|items %}{{ k }}={{ v }} {% endfor %}{{ t|fence }}"
    variables = {"d": {"b": 1, "a": 2}, "t": "text"}
    assert {rendered(prompts, template, **variables) for _ in range(20)} == {rendered(prompts, template, **variables)}


def test_keys_come_before_methods(prompts: Prompts) -> None:
    row = {"items": "I", "values": "V", "keys": "K", "get": "G", "copy": "C"}
    assert rendered(prompts, "{{ r.items }}{{ r.values }}{{ r.keys }}{{ r.get }}{{ r.copy }}", r=row) == "IVKGC"


def test_the_fields_of_an_items_source_are_read_directly_but_its_own_come_first(prompts: Prompts) -> None:
    item = Item(index=4, source={"title": "T", "value": "inner", "items": [1]}, value="mine")
    text = "{{ item.title }} {{ item.value }} {{ item.source.value }} {{ item.items }} {{ item.index }} {{ item }}"
    assert rendered(prompts, text, item=item) == "T mine inner [1] 4 mine"


def test_includes_come_from_the_library_and_are_part_of_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "prompts" / "shared").mkdir(parents=True)
    (tmp_path / "prompts" / "shared" / "one.md.j2").write_text("one {{ plan.goal }}")
    (tmp_path / "prompts" / "shared" / "loop.md.j2").write_text("{% include 'shared/loop' %}")
    prompts = Prompts(Library([tmp_path]))
    template = prompts.template("{% include 'shared/one' %} two {{ inputs.x }}")
    assert template.paths == {("plan", "goal"), ("inputs", "x")}
    assert template.render({"plan": {"goal": "G"}, "inputs": {"x": "X"}})[0].content == "one G two X"
    with pytest.raises(PromptError, match="includes itself"):
        prompts.template("shared/loop")


def test_a_templates_name_never_leads_out_of_its_folders(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    (inside / "prompts").mkdir(parents=True)
    (tmp_path / "secret.md.j2").write_text("secret")
    (inside / "prompts" / "link.md.j2").symlink_to(tmp_path / "secret.md.j2")
    prompts = Prompts(Library([inside]))
    for name in ("../../secret", str(tmp_path / "secret.md.j2"), "../secret.md.j2", "./link"):
        with pytest.raises(PromptError, match="no template"):
            prompts.template(name)


@pytest.mark.parametrize(
    ("source", "paths", "bare"),
    [
        ("plan", {("plan",)}, True),
        ("work.items", {("work", "items")}, True),
        ("a.b['c'][0].d", {("a", "b", "c", "0", "d")}, False),
        ("item.difficulty >= 4 and other.x", {("item", "difficulty"), ("other", "x")}, False),
        ("rows|selectattr('ok')|list", {("rows",)}, False),
        ("[x for x in y]", None, False),
        ("(1 +", None, False),
    ],
)
def test_what_an_expression_reads(prompts: Prompts, source: str, paths: Any, bare: bool) -> None:
    if paths is None:
        with pytest.raises(PromptError, match="expression"):
            prompts.expression(source)
        return
    expression = prompts.expression(source)
    assert (expression.paths, expression.bare) == (paths, bare)


def test_an_undefined_name_in_an_expression_is_an_error_and_never_none(prompts: Prompts) -> None:
    for source in ("nobody", "item.nothing", "item.nothing == 3", "not item.nothing"):
        with pytest.raises(PromptError):
            prompts.expression(source).evaluate({"item": {}})
