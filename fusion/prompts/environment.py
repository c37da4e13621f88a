"""Jinja sandbox: access and resource limits of templates.

A template reads data only. A render is bounded in loop steps, in output and, as a last resort, in time. Operations
that build a large value from small ones are refused beforehand.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, wraps
from typing import Any, Literal, NamedTuple

from jinja2 import StrictUndefined, TemplateRuntimeError, Undefined, nodes, pass_context
from jinja2.ext import Extension
from jinja2.loaders import FunctionLoader
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fusion.core.errors import close_names
from fusion.core.types import DECISION_FIELDS, ITEM_FIELDS, Attached, File, Item, Value
from fusion.prompts.bounds import (
    bound_filters,
    bound_tree,
    bounded,
    check_characters,
    check_format,
    check_product,
    compared,
    weight,
)
from fusion.prompts.filters import FILTERS, joined, lines_of, printed
from fusion.prompts.library import Library
from fusion.prompts.limits import Meter, check_size, count_step, count_work, current_meter

MESSAGE = "a message"
"""Name of the filter for the text of a message block; the space keeps templates from using it."""
_END = "a stable end"
"""Name of the filter before a print that may end the stable part of a message."""

_OF_ATTACHED = ("text", "sections")  # of the material; `sections` is that of an outline
_FAILED_ITEM = 'pass items that failed over with `selectattr("ok")` or `if item.ok`'
_NO_GLOBALS = ("lipsum", "cycler", "joiner")
_NO_FILTERS = (
    "batch",
    "center",
    "filesizeformat",
    "format",
    "pprint",
    "random",
    "slice",
    "urlize",
    "wordwrap",
    "xmlattr",
)
_SELECTING = frozenset({"selectattr", "rejectattr"})
_BY_ATTRIBUTE = (*_SELECTING, "map", "sum", "groupby", "sort", "unique", "min", "max")
"""Filters that read an attribute of every element."""
_METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(
        """
        capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower
        isnumeric isprintable isspace istitle isupper lower lstrip partition removeprefix removesuffix rfind rindex
        rpartition rsplit rstrip split splitlines startswith strip swapcase title upper
        """.split()  # noqa: SIM905 - a list of them would fill a page
    ),
    bytes: frozenset(),
    int: frozenset({"bit_length", "bit_count", "conjugate", "denominator", "imag", "numerator", "real"}),
    float: frozenset({"is_integer", "conjugate", "imag", "real"}),
}
"""Methods of plain values that templates may call: none makes a large value of small ones."""


class _Hint(NamedTuple):
    """The message of a missing field, and the names that there are."""

    begin: str
    name: str
    known: tuple[Any, ...]
    none: str = ""

    def __str__(self) -> str:
        known = [name for name in self.known if isinstance(name, str)]
        return f"{self.begin} {self.name!r}{close_names(self.name, known) or self.none}"


class _Missing(StrictUndefined):
    """An undefined value whose message is made when it is needed: tests for it are common, and messages dear."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        return str(self._undefined_hint)


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox: mapping keys take precedence over methods, and undefined names are errors."""

    intercepted_binops = frozenset({"**", "*", "+", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Item):
            return self._of_item(obj, attribute)
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        if isinstance(obj, str) and attribute == "splitlines":
            return partial(lines_of, obj)
        return self._named(super().getattr(obj, attribute), obj, attribute)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return `format` of a text with bounds on its widths and its output."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def format_text(*args: Any, **kwargs: Any) -> str:
            check_format(value.__self__, [*args, *kwargs.values()])
            return wrapped(*args, **kwargs)

        return format_text

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Item) and isinstance(argument, str):
            return self._of_item(obj, argument)
        return self._named(super().getitem(obj, argument), obj, argument)

    def _of_item(self, item: Item, name: str) -> Any:
        if name in ITEM_FIELDS or (item.cost is not None and name in DECISION_FIELDS):
            return getattr(item, name)
        source = item.source
        if isinstance(source, (dict, Mapping)) and name in source:
            return source[name]
        columns = list(source) if isinstance(source, Mapping) else []
        hint: Any = _Hint("an item has no field", name, (*ITEM_FIELDS, *columns))
        return _Missing(hint, item, name)

    def _named(self, found: Any, obj: Any, name: Any) -> Any:
        """Return what was found; where that is undefined, say which fields there are."""
        if not isinstance(found, Undefined) or not isinstance(name, str) or name.startswith("_"):
            return found
        if obj is None:
            return self.undefined(
                hint=f"no field {name!r} of an empty value, which an item that failed has; {_FAILED_ITEM}"
            )
        if isinstance(obj, Mapping):
            hint: Any = _Hint("no field", name, tuple(obj), "; there are none")
            return _Missing(hint, obj, name)
        return found

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Attached) and attr in _OF_ATTACHED:
            return True
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind) and attr not in methods:
                return False
        if isinstance(obj, Value):
            return attr in type(obj).model_fields
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in Jinja
        count_step(0)
        if getattr(__obj, "__name__", "") in ("strip", "lstrip", "rstrip"):
            check_characters(args[0] if args else None)
        return bounded(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        check_size(operator, left, right)
        if operator == "*":
            check_product(*((right, left) if isinstance(left, int) else (left, right)))
        elif operator == "+" and isinstance(left, (list, tuple)):
            count_work((weight(left) + weight(right)) // 100)
        return super().call_binop(context, operator, left, right)

    bounded = staticmethod(bounded)

    def compared(self, left: Any, *rest: Any) -> bool:
        return compared(self, left, *rest)

    def join_texts(self, *parts: Any) -> str:
        return joined(parts)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        bound_tree(source)
        _bound_loops(source)
        return super()._generate(source, *args, **kwargs)


def _finalize(value: Any) -> str:
    """Return the output of `{{ value }}`: text unchanged, data as JSON; count it towards the limit."""
    meter = current_meter.get()
    if meter is None:
        return value if type(value) is str else printed(value)
    if isinstance(value, (File, Attached)):
        return _placed(value, meter)
    text = value if type(value) is str else printed(value)
    meter.write(len(text))
    return text


def _placed(value: File | Attached, meter: Meter) -> str:
    """Return the placeholder of a file, or a text followed by those of its files."""
    if isinstance(value, File):
        return meter.place(value)
    meter.write(len(value))
    return "".join([str(value), *map(meter.place, value.files)])


def _bound_loops(tree: nodes.Template) -> None:
    """Make loops and macros count their steps and output, and bound the operator `~`."""
    for concat in list(tree.find_all(nodes.Concat)):
        swap(tree, concat, _environment_call("join_texts", concat.nodes))
    blocks: list[nodes.For | nodes.Macro | nodes.CallBlock] = [
        *tree.find_all(nodes.For),
        *tree.find_all(nodes.Macro),
        *tree.find_all(nodes.CallBlock),
    ]
    for block in blocks:
        size = sum(len(data.data) for data in block.find_all(nodes.TemplateData))
        step = nodes.Filter(nodes.Const(size), "a step", [], [], None, None)
        block.body.insert(0, nodes.Output([step], lineno=block.lineno))


def _environment_call(name: str, arguments: list[nodes.Expr]) -> nodes.Expr:
    call = nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
    call.set_lineno(1)
    return call


def swap(tree: nodes.Node, old: nodes.Node, new: nodes.Node) -> None:
    """Replace a node of a syntax tree."""
    new.set_lineno(old.lineno, override=True)
    for parent in [tree, *tree.find_all(nodes.Node)]:
        for field, value in parent.iter_fields():
            if value is old:
                setattr(parent, field, new)
            elif isinstance(value, list):
                for at, element in enumerate(value):
                    if element is old:
                        value[at] = new


def mark_stable(tree: nodes.Template, environment: Environment) -> None:
    """Let each message know where its part ends that is the same in all renders."""
    known = {*environment.globals, "loop"}
    blocks = [block for block in tree.find_all(nodes.FilterBlock) if block.filter.name == MESSAGE]
    for body in [block.body for block in blocks] or [tree.body]:
        body[:] = [part for node in body for part in _with_end(node, known)]


def _with_end(node: nodes.Node, known: set[str]) -> Iterator[nodes.Node]:
    """Yield a node with a mark before each of its parts that reads variables."""
    if not isinstance(node, nodes.Output):
        names = _free(node, known)
        if names:
            yield nodes.Output([_end(names, node.lineno)], lineno=node.lineno)
        yield node
        return
    node.nodes = [part for one in node.nodes for part in _marked(one, known)]
    yield node


def _marked(part: nodes.Expr, known: set[str]) -> list[nodes.Expr]:
    names = [] if isinstance(part, nodes.TemplateData) else _free(part, known)
    return [_end(names, part.lineno), part] if names else [part]


def _free(node: nodes.Node, known: set[str]) -> list[str]:
    """Return the variables that a node reads. One that it sets itself counts where a loop reads it from outside."""
    names = list(_names(node))
    own = {name.name for name in names if name.ctx != "load"}
    outside = {name.name for loop in _loops(node) for name in _names(loop.iter)}
    return sorted({name.name for name in names if name.ctx == "load"} - (own - outside) - known)


def _loops(node: nodes.Node) -> Iterator[nodes.For]:
    yield from [node] if isinstance(node, nodes.For) else node.find_all(nodes.For)


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    yield from [node] if isinstance(node, nodes.Name) else node.find_all(nodes.Name)


def _end(names: list[str], line: int) -> nodes.Filter:
    made = nodes.Filter(nodes.Const(tuple(names)), _END, [], [], None, None)
    made.set_lineno(line)
    return made


@pass_context
def _end_of_stable(context: Context, names: tuple[str, ...]) -> str:
    meter = current_meter.get()
    if meter is None or meter.lasts is None:
        return ""
    return meter.end_stable((name, context.resolve_or_missing(name)) for name in names)


class _MessageBlock(Extension):
    """The tag `{% message role="system" %}…{% endmessage %}`: one message of the conversation."""

    tags = {"message"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        role: nodes.Expr = nodes.Const("user")
        if parser.stream.skip_if("name:role"):
            parser.stream.expect("assign")
            role = parser.parse_expression()
        elif parser.stream.current.type != "block_end":
            parser.fail('write {% message role="system" %}, "user" or "assistant"', line)
        body = parser.parse_statements(("name:endmessage",), drop_needle=True)
        if not isinstance(role, nodes.Const) or role.value not in ("system", "user", "assistant"):
            parser.fail('the role of a message is "system", "user" or "assistant", in quotes', line)
        block = nodes.Filter(None, MESSAGE, [role], [], None, None)
        return nodes.FilterBlock(body, block, lineno=line)


def _of_usable(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """Let a filter that reads a field of values pass failed items over if it selects, and name them otherwise."""

    @wraps(made)
    def filtered(context: Any, value: Any, *args: Any, **named: Any) -> Any:
        read = named.get("attribute", args[0] if args else None)
        if isinstance(read, str) and read.startswith("value.") and isinstance(value, Iterable):
            value = list(value)
            failed = [one for one in value if isinstance(one, Item) and one.failure is not None]
            if failed and name not in _SELECTING:
                raise TemplateRuntimeError(f"{name}: {_lost(failed[0])} and has no {read!r}; {_FAILED_ITEM}")
            value = [one for one in value if one not in failed] if failed else value
        return made(context, value, *args, **named)

    return filtered


def _lost(item: Item) -> str:
    assert item.failure is not None
    return f"item {item.index + 1} failed ({item.failure.reason})"


@pass_context
def _one_step(_: object, size: int) -> str:
    """Count a loop step with `size` characters; the context keeps Jinja from folding it into a constant."""
    count_step(size)
    return ""


def _message(text: str, role: Literal["system", "user", "assistant"]) -> str:
    """Move the text of a message block from the output to the messages."""
    meter = current_meter.get()
    message = None if meter is None else meter.message(role, text)
    if meter is not None and message is not None:
        meter.messages.append(message)
    return ""


def new_environment(library: Library) -> Environment:
    def load(name: str) -> tuple[str, str, Callable[[], bool]] | None:
        found = library.template(name)
        return None if found is None else (found[0], str(found[1]), lambda: True)

    environment = Environment(
        loader=FunctionLoader(load),
        extensions=[_MessageBlock],
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        autoescape=False,
        auto_reload=False,
        cache_size=400,
    )
    for name in _NO_GLOBALS:
        environment.globals.pop(name)
    for name in _NO_FILTERS:
        environment.filters.pop(name)
    environment.filters.update(FILTERS)
    environment.tests["file"] = lambda value: isinstance(value, File)
    environment.filters["files"] = lambda text: list(text.files) if isinstance(text, Attached) else []
    for name in _BY_ATTRIBUTE:
        environment.filters[name] = _of_usable(name, environment.filters[name])
    bound_filters(environment)
    environment.filters.update({MESSAGE: _message, _END: _end_of_stable, "a step": _one_step})
    return environment
