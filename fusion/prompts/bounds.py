"""Bounds: the work and the memory of filters, tests, comparisons and literals, counted before they are done."""

import html
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import wraps
from string import Formatter
from typing import Any, Final

from jinja2 import Undefined, nodes, pass_context
from jinja2.environment import Environment as JinjaEnvironment
from jinja2.exceptions import SecurityError
from jinja2.utils import _PassArg
from pydantic import BaseModel

from fusion.core.bounded import clock
from fusion.core.types import File
from fusion.prompts.limits import MAX_OUTPUT, check_output, count_made, count_work

_ITERATING: Final = frozenset(
    "map select reject selectattr rejectattr list sort unique groupby join sum min max first reverse".split()  # noqa: SIM905
)
_MAX_CHARACTERS: Final = 1_000
"""Longest set of characters to strip: each is compared with each of the text."""
_WIDE: Final = re.compile(r"[1-9]\d{3}")
_MAX_PRECISION: Final = 20


MAX_PARTS: Final = 5_000_000
"""Most parts of a list or mapping, those within it included; a part in several places counts in each."""


def weight(value: Any) -> int:
    """Return the number of parts of data, about. Raises SecurityError above MAX_PARTS."""
    return _measured(value, {}, 1_000, MAX_PARTS, f"a text or list of more than {MAX_PARTS:,} parts is refused")


def check_printed(value: Any) -> None:
    """Raise SecurityError for data that is too large written out."""
    if not isinstance(value, str):
        _printed_size(value)


def _measured(value: Any, known: dict[int, int], unit: int, most: int, refusal: str) -> int:
    """Return the size of data, where so many characters are a unit; a shared part is measured once."""
    match value:
        case str() | bytes():
            return 2 + len(value) // unit
        case list() | tuple() | set() | frozenset():
            parts: Collection[Any] = value
        case Mapping():
            parts = [part for pair in value.items() for part in pair]
        case BaseModel():
            parts = list(vars(value).values())
        case int():
            return 2 + value.bit_length() // 3 // unit
        case _:
            return 4
    if id(value) not in known:
        count_work(len(parts))
        total = 2
        for part in parts:
            total += _measured(part, known, unit, most, refusal)
            if total > most:
                raise SecurityError(refusal)
        known[id(value)] = total
    return known[id(value)]


def bounded(value: Any) -> Any:
    """Return a new list or mapping. Raises SecurityError if it has too many parts."""
    if isinstance(value, (list, tuple, dict)):
        weight(value)
    return value


def check_product(sequence: Any, times: int) -> None:
    """Check the size of a list that is repeated."""
    if isinstance(sequence, (list, tuple)) and weight(sequence) * times > MAX_PARTS:
        raise SecurityError(f"a text or list of more than {MAX_PARTS:,} parts is refused")


def compared(environment: Any, left: Any, *rest: Any) -> bool:
    """Return the truth of `left op right op …`; `rest` holds operators and operands in turn."""
    for operator, right in zip(rest[::2], rest[1::2], strict=True):
        count_work(_cost(operator, left, right))
        if not _OPERATORS[operator](left, right):
            return False
        left = right
    return True


_OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "lteq": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "gteq": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
    "notin": lambda a, b: a not in b,
}


def _cost(operator: str, left: Any, right: Any) -> int:
    """Return the steps of a comparison, counted before it is made."""
    if isinstance(left, Undefined) or isinstance(right, Undefined):
        return 1
    if operator in ("in", "notin") and isinstance(right, (list, tuple, range)):
        return 1 + len(right) // 20 + (weight(right) // 50 if isinstance(left, (list, tuple, dict)) else 0)
    if isinstance(left, str) and isinstance(right, str):
        return 1 + min(len(left), len(right)) // 1_000
    if isinstance(left, (list, tuple, dict)) and isinstance(right, (list, tuple, dict)):
        return 1 + min(weight(left), weight(right)) // 50
    return 1


# Syntax trees.


def bound_tree(tree: nodes.Template) -> None:
    """Make literals of lists and mappings, and comparisons, ask for their bounds."""
    _bound(tree)


def _bound(node: nodes.Node) -> None:
    for field, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            _bound(value)
            setattr(node, field, _replaced(value))
        elif isinstance(value, list):
            for at, element in enumerate(value):
                if isinstance(element, nodes.Node):
                    _bound(element)
                    value[at] = _replaced(element)


def _replaced(node: nodes.Node) -> nodes.Node:
    if isinstance(node, (nodes.List, nodes.Dict)) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return node if _is_constant(node) else _call("bounded", [node], node)
    if isinstance(node, nodes.Compare):
        parts: list[nodes.Expr] = [node.expr]
        for operand in node.ops:
            parts += [nodes.Const(operand.op), operand.expr]
        return node if all(map(_is_constant, parts)) else _call("compared", parts, node)
    return node


def _is_constant(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) or (
        isinstance(node, (nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair))
        and all(_is_constant(part) for part in node.iter_child_nodes())
    )


def _call(name: str, arguments: list[nodes.Expr], of: nodes.Node) -> nodes.Call:
    call = nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
    call.set_lineno(of.lineno)
    if of.environment is not None:
        call.set_environment(of.environment)
    return call


# Filters and tests.


def bound_filters(environment: JinjaEnvironment) -> None:
    """Make every filter and test count its work and its output; none is computed while a template is compiled."""
    for name, made in {**environment.filters, **_OWN}.items():
        environment.filters[name] = _bounded_filter(name, made)
    tests: Any = environment.tests
    for name, made in list(tests.items()):
        tests[name] = _bounded_test(name, made)


def _bounded_filter(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    with_context = _with_context(made)

    @pass_context
    @wraps(made)
    def bounded_filter(context: Any, value: Any = None, *args: Any, **more: Any) -> Any:
        count_work(1)
        if isinstance(value, str):
            clock.check_light(len(value))
        if name in _ITERATING and isinstance(value, (list, tuple, range, Mapping, Iterator)):
            _check_elements(name, value)
            value = _counted(value)
        result = with_context(context, value, *args, **more)
        if isinstance(result, str):
            count_made(len(result))
        elif isinstance(result, (list, tuple, dict)):
            count_made(8 * len(result))
        return result

    del bounded_filter.__wrapped__  # Jinja would take its arguments for those of the filter
    return bounded_filter


def _check_elements(name: str, value: Any) -> None:
    """Check lists that are compared with each other."""
    if name in ("sort", "unique", "groupby", "min", "max") and isinstance(value, (list, tuple)):
        weight(value)


def _bounded_test(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    with_context = _with_context(made)
    operator = _TESTS.get(name, "")

    @pass_context
    def bounded_test(context: Any, *args: Any, **more: Any) -> Any:
        count_work(_cost(operator, *args[:2]) if operator and len(args) > 1 else 1)
        return with_context(context, *args, **more)

    return bounded_test


_TESTS: Final = {
    **dict.fromkeys(("eq", "equalto", "==", "ne", "!="), "eq"),
    **dict.fromkeys(("lt", "lessthan", "<", "le", "<=", "gt", "greaterthan", ">", "ge", ">="), "lt"),
    "in": "in",
}


def _with_context(made: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter or test as a function of the context."""
    match _PassArg.from_obj(made):
        case _PassArg.context:
            return made
        case _PassArg.eval_context:
            return lambda context, *args, **more: made(context.eval_ctx, *args, **more)
        case _PassArg.environment:
            return lambda context, *args, **more: made(context.environment, *args, **more)
    return lambda context, *args, **more: made(*args, **more)


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        count_work(1)
        yield value


def check_characters(characters: Any) -> None:
    """Refuse to strip from a large set of characters."""
    if isinstance(characters, str) and len(characters) > _MAX_CHARACTERS:
        raise SecurityError(f"at most {_MAX_CHARACTERS:,} characters can be stripped")


def check_format(text: str, values: Iterable[Any]) -> None:
    """Refuse a format with large widths, or with a large output."""
    fields = 0
    try:
        for _, name, spec, _ in Formatter().parse(text):
            fields += name is not None
            if "{" in (spec or "") or _WIDE.search(spec or ""):
                raise SecurityError(f"a width in `format` is a number of at most {_MAX_CHARACTERS:,}, written out")
    except ValueError as error:
        raise SecurityError(f"{text[:60]!r} is not a format: {error}") from error
    longest = max((_printed_size(value) for value in values), default=0)
    check_output(len(text) + fields * (longest + _MAX_CHARACTERS))


def _printed_size(value: Any) -> int:
    return _measured(value, {}, 1, MAX_OUTPUT, f"it writes more than {MAX_OUTPUT:,} characters")


def _trim(value: Any, chars: str | None = None) -> str:
    """Strip white space, or these characters, from both ends."""
    check_characters(chars)
    return str(value).strip(chars)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    """Round a number to so many places."""
    from jinja2.filters import do_round

    if not isinstance(precision, int) or abs(precision) > _MAX_PRECISION:
        raise SecurityError(f"round takes at most {_MAX_PRECISION} places")
    return do_round(value, precision, method)  # type: ignore[arg-type]


def _striptags(value: Any) -> str:
    """Remove tags and comments of HTML, and join white space."""
    pieces, text, at = [], str(value), 0
    while (start := text.find("<", at)) >= 0:
        clock.check()
        is_comment = text.startswith("<!--", start)
        end = text.find("-->" if is_comment else ">", start)
        if end < 0:
            break
        pieces.append(text[at:start])
        at = end + (3 if is_comment else 1)
    return html.unescape(" ".join("".join([*pieces, text[at:]]).split()))


def _string(value: Any) -> Any:
    """Return a value as text."""
    if isinstance(value, (str, File, Undefined)):
        return value
    check_printed(value)
    return str(value)


_OWN: Final[Mapping[str, Callable[..., Any]]] = {
    "trim": _trim,
    "round": _round,
    "striptags": _striptags,
    "string": _string,
}
