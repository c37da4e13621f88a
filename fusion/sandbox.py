"""The Jinja sandbox: what a template may reach, and how much it may use.

A template reads data and nothing behind it. A render is bounded in loop steps, in output and, as a last resort,
in time; what would make a large value out of small ones is refused before it is made.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal

from jinja2 import StrictUndefined, Undefined, nodes, pass_context, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.loaders import FunctionLoader
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fusion.core.types import Asked, File, Item, Message, Value, as_text
from fusion.library import Library

MESSAGE = "a message"
"""The filter that takes a message block's text; its name cannot be written in a template."""

MAX_OUTPUT = 10_000_000
MAX_STEPS = 200_000
MAX_SECONDS = 10.0
MAX_REPEAT = 1_000_000

_EXACT = Context(prec=900)  # digits: more than two numbers of 300 places have between them
_ITEM_FIELDS = frozenset(Item.model_fields) | {"ok"}
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
_NO_METHODS = frozenset(
    {
        "center",
        "expandtabs",
        "format",
        "format_map",
        "join",
        "ljust",
        "replace",
        "rjust",
        "translate",
        "zfill",
    }
)


class Meter:
    """Counts what the renders inside of its `with` block use, and takes the messages that they make."""

    __slots__ = ("_token", "deadline", "files", "mark", "messages", "output", "steps")

    def __init__(self) -> None:
        self.output = 0
        self.steps = 0
        self.deadline = time.monotonic() + MAX_SECONDS
        self.messages: list[Message] = []
        self.files: list[File] = []
        self.mark = ""

    def __enter__(self) -> "Meter":
        self._token = _meter.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _meter.reset(self._token)

    def step(self, size: int) -> None:
        self.steps += 1
        self.write(size)
        if self.steps > MAX_STEPS:
            raise SecurityError(f"it takes more than {MAX_STEPS:,} loop steps; does a loop run for ever?")
        if time.monotonic() > self.deadline:
            raise SecurityError(f"it takes longer than {MAX_SECONDS:g} s")

    def write(self, size: int) -> None:
        self.output += size
        _check_output(self.output)

    def place(self, file: File) -> str:
        """What stands for a file in the text until its message is made: nobody can have written it beforehand.

        A message holds a file once, where it is printed first.
        """
        if any(file.digest == placed.digest for placed in self.files):
            return ""
        self.mark = self.mark or secrets.token_hex(16)
        self.files.append(file)
        return f"\0{self.mark}\0"

    def message(self, role: Literal["system", "user", "assistant"], text: str) -> Message | None:
        """The message of a text, its files in their places; None where it says nothing."""
        if not self.files:
            text = text.strip()
            return Message(role=role, content=text) if text else None
        files, self.files = self.files, []
        pieces = text.strip().split(f"\0{self.mark}\0")
        if len(pieces) != len(files) + 1:
            raise SecurityError(
                "a picture or document stands by itself, as in {{ inputs.picture }}: nothing changes it"
            )
        if role != "user":
            raise SecurityError(f"a picture or document stands in a message of the user's, not the {role}'s")
        ends = accumulate(map(len, pieces[:-1]))
        return Message(role=role, content="".join(pieces), files=tuple(zip(ends, files, strict=True)))

    def take_messages(self) -> list[Message]:
        """The messages made since they were last taken."""
        taken, self.messages = self.messages, []
        return taken


_meter: ContextVar[Meter | None] = ContextVar("fusion_render", default=None)


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox: mapping keys before methods, nothing undefined, nothing without a bound."""

    intercepted_binops = frozenset({"**", "*", "+", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Item):
            return self._of_item(obj, attribute)
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Item) and isinstance(argument, str):
            return self._of_item(obj, argument)
        return super().getitem(obj, argument)

    def _of_item(self, item: Item, name: str) -> Any:
        if name in _ITEM_FIELDS:
            return getattr(item, name)
        source = item.source
        if isinstance(source, (dict, Mapping)) and name in source:
            return source[name]
        return self.undefined(obj=item, name=name)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _NO_METHODS:
            return False
        if isinstance(obj, Value):
            return attr in type(obj).model_fields
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in Jinja
        _step(0)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_size(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def join_texts(self, *parts: Any) -> str:
        return _join(parts)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        _bound_loops(source)
        return super()._generate(source, *args, **kwargs)


def _step(size: int) -> None:
    meter = _meter.get()
    if meter is not None:
        meter.step(size)


def _finalize(value: Any) -> str:
    """What `{{ value }}` prints: text as it is, data as JSON; counted against the output's bound."""
    meter = _meter.get()
    if meter is None:
        return value if type(value) is str else _text(value)
    if isinstance(value, (File, Asked)):
        return _placed(value, meter)
    text = value if type(value) is str else _text(value)
    meter.write(len(text))
    return text


def _placed(value: File | Asked, meter: Meter) -> str:
    """A file, or a request and the files that came with it, where they are printed."""
    if isinstance(value, File):
        return meter.place(value)
    meter.write(len(value))
    return "".join([str(value), *map(meter.place, value.files)])


def _check_output(size: int) -> None:
    if size > MAX_OUTPUT:
        raise SecurityError(f"it writes more than {MAX_OUTPUT:,} characters")


def _check_size(operator: str, left: Any, right: Any) -> None:
    if operator == "**" and not (isinstance(right, (int, float)) and abs(right) <= 64):
        raise SecurityError("powers above 64 are refused")
    if operator == "%" and isinstance(left, str):
        raise SecurityError("text is not formatted with %; use ~ or a filter")
    if operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
        _check_length(len(left) + len(right))
    if operator == "*":
        _check_product(left, right)
    for number in (left, right):
        if isinstance(number, int) and number.bit_length() > 4096:
            raise SecurityError("numbers above 4096 bits are refused")


def _check_product(left: Any, right: Any) -> None:
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, (str, list, tuple, bytes)) and isinstance(times, int):
            _check_length(len(sequence) * times)


def _check_length(length: int) -> None:
    if length > MAX_REPEAT:
        raise SecurityError(f"a text or list of more than {MAX_REPEAT:,} elements is refused")


def _bound_loops(tree: nodes.Template) -> None:
    """Count each step of a loop and each call of a macro, with the text that it writes; bound `~`."""
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
    """Put one node of a syntax tree in the place of another."""
    new.set_lineno(old.lineno, override=True)
    for parent in [tree, *tree.find_all(nodes.Node)]:
        for field, value in parent.iter_fields():
            if value is old:
                setattr(parent, field, new)
            elif isinstance(value, list):
                for at, element in enumerate(value):
                    if element is old:
                        value[at] = new


class _MessageBlock(Extension):
    """`{% message role="system" %}…{% endmessage %}`: one message of the conversation."""

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


@pass_context
def _one_step(_: object, size: int) -> str:
    """One turn of a loop, which writes `size` characters; the context keeps it from being folded into a constant."""
    _step(size)
    return ""


def _message(text: str, role: Literal["system", "user", "assistant"]) -> str:
    """Take the text of a message block out of the rendered text and into the messages."""
    meter = _meter.get()
    message = None if meter is None else meter.message(role, text)
    if meter is not None and message is not None:
        meter.messages.append(message)
    return ""


def _json(value: Any, indent: int | None = None) -> str:
    """The value as JSON."""
    if isinstance(value, Undefined):
        return str(value)
    return json.dumps(value, ensure_ascii=False, indent=indent and min(indent, 8), default=_jsonable)


def _jsonable(value: Any) -> Any:
    if isinstance(value, File):
        return str(value)
    return value.model_dump(mode="json") if isinstance(value, Value) else as_text(value)


def _indent(value: Any, width: int = 4, first: bool = False) -> str:
    """Every line but the first (or with it) moved to the right."""
    if not 0 <= width <= 64:
        raise SecurityError("indent takes 0 to 64 spaces")
    lines = _text(value).splitlines()
    pad = " " * width
    return "\n".join(line if (at == 0 and not first) or not line else pad + line for at, line in enumerate(lines))


def _truncate_tokens(value: Any, most: int) -> str:
    """At most about this many tokens (four bytes each), cut between words and marked as cut."""
    text = _text(value)
    raw = text.encode()
    if len(raw) <= most * 4:
        return text
    kept = raw[: most * 4].decode(errors="ignore")
    head, _, _ = kept.rpartition(" ")
    return (head or kept).rstrip() + " [cut here]"


def _fence(value: Any, label: str = "text") -> str:
    """Untrusted text between delimiters that it cannot contain, since they are derived from its SHA-256."""
    return fenced(_text(value), label)


@lru_cache(maxsize=256)
def fenced(text: str, label: str) -> str:
    """The text between delimiters that it cannot contain."""
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"<{label} {mark}>\n{text}\n</{label} {mark}>"


def _replace(value: Any, old: str, new: str) -> str:
    """The text with every `old` replaced by `new`."""
    text = _text(value)
    _check_output(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    """The values as text, one after the other."""
    if isinstance(values, Undefined):
        return str(values)
    if attribute is not None:
        raise SecurityError("join takes no attribute; use map(attribute=…) before it")
    texts = [_text(value) for value in values]
    _check_output(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def _sum(environment: Any, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """The sum, exact in decimals: of numbers, of numbers written as text, or, from a list, of lists."""
    if isinstance(values, Undefined):
        return str(values)
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    if isinstance(start, list):
        return _all_of(values, start)
    total, whole = Decimal(0), True
    for value in (start, *values):
        _step(0)
        total = _EXACT.add(total, _decimal(value, "sum"))
        whole = whole and isinstance(value, int)
    return int(total) if whole else float(total)


def _all_of(lists: Iterable[Any], start: list[Any]) -> list[Any]:
    joined = list(start)
    for one in lists:
        if isinstance(one, Undefined) or not isinstance(one, (list, tuple)):
            raise SecurityError(f"sum(start=[]) joins lists, not {_short(one)}")
        joined += one
        _step(0)
        _check_length(len(joined))
    return joined


def _decimal(value: Any, wanted_by: str) -> Decimal:
    """The number that stands there; raises SecurityError for what is none."""
    if isinstance(value, Undefined):
        str(value)
    number = value if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) else None
    try:
        found = Decimal(str(value).strip()) if number is not None or isinstance(value, str) else Decimal("NaN")
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or abs(found.adjusted()) > 300:
        raise SecurityError(f"{wanted_by} takes numbers such as 1180.5, not {_short(value)}")
    return found


def _decimals(value: Any, places: int = 2) -> str:
    """The number with so many places behind the point, rounded half away from zero: 4634.50."""
    if not 0 <= places <= 20:
        raise SecurityError("decimals takes 0 to 20 places")
    number = _decimal(value, "decimals")
    return str(number.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP, context=_EXACT))


def _table(rows: Iterable[Any], columns: Sequence[str] | None = None) -> str:
    """The rows, mappings or items that hold one, as a table in Markdown; by default with every field as a column."""
    if isinstance(rows, Undefined):
        return str(rows)
    records = [row.value if isinstance(row, Item) else row for row in rows]
    for record in records:
        _step(0)
        if not isinstance(record, Mapping):
            raise SecurityError(f"table takes rows with named fields, not {_short(record)}")
    names = list(columns or dict.fromkeys(name for record in records for name in record))
    cells = [[_cell(record.get(name)) for name in names] for record in records]
    lines = [[_cell(name) for name in names], ["---"] * len(names), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = "" if value is None else _text(value)
    return " ".join(text.replace("|", "\\|").split())


def _short(value: Any) -> str:
    text = repr(as_text(value) if isinstance(value, Item) else value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _text(value: Any) -> str:
    if isinstance(value, File):
        raise SecurityError(f"{value} stands by itself, as in {{{{ inputs.picture }}}}: no filter takes it")
    return str(value) if isinstance(value, (Undefined, Item)) else as_text(value)


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
    environment.filters.update(
        json=_json,
        indent=_indent,
        truncate_tokens=_truncate_tokens,
        fence=_fence,
        replace=_replace,
        join=_join,
        sum=pass_environment(_sum),
        decimals=_decimals,
        table=_table,
    )
    environment.tests["file"] = lambda value: isinstance(value, File)
    environment.filters["files"] = lambda request: list(request.files) if isinstance(request, Asked) else []
    environment.filters.update({MESSAGE: _message, "a step": _one_step})
    return environment
