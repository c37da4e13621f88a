"""Templates and expressions, compiled once.

Rendering is a pure function of its inputs. Templates come from files and YAML only; text of a model is data.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path as File
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.environment import Template as JinjaTemplate
from jinja2.meta import find_undeclared_variables

from fusion.core.errors import PromptError, close_names
from fusion.core.types import Message
from fusion.prompts.environment import MESSAGE, Environment, mark_stable, new_environment, swap
from fusion.prompts.library import Library, shipped_root
from fusion.prompts.limits import Meter

Path = tuple[str, ...]
"""A free variable with the attributes read from it: `plan.goal` is `("plan", "goal")`."""

_UNUSABLE = (TemplateError, SyntaxError, RecursionError, ValueError, OverflowError, MemoryError)
"""Errors of compiling: Jinja's own, and Python's for blocks or brackets nested too deep."""

MAX_TEMPLATE = 262_144
MAX_EXPRESSION = 10_000
_MAX_PATH = 200
_LEAST_STABLE = 1_500
"""Characters from which on a stable part is marked: fewer are below every provider's minimum."""


class _Part:
    """A separately rendered part of a template: one message block, or a whole template with other text."""

    def __init__(self, compiled: JinjaTemplate, reads: Collection[str]) -> None:
        self.compiled = compiled
        self.names = tuple(reads)
        self._globals = dict(compiled.globals)

    def run(self, variables: Mapping[str, Any]) -> str:
        context = self.compiled.new_context({**self._globals, **variables}, shared=True)
        return "".join(self.compiled.root_render_func(context))


class Fixed:
    """Variables that stay the same between renders, and a cache of the messages that read no others.

    `lasting` are further values that are the same in every render that has them. With `marks`, messages tell how much
    of them is the same in all renders, as long as that is worth a provider's prompt cache.
    """

    def __init__(self, variables: Mapping[str, Any], lasting: Sequence[Any] = (), *, marks: bool = False) -> None:
        self.variables = dict(variables)
        self.messages: dict[_Part, list[Message]] = {}
        self.marks = marks
        self._lasting = tuple(lasting)

    def holds(self, part: _Part, variables: Mapping[str, Any]) -> bool:
        """Return True if the part reads fixed variables only."""
        for name in part.names:
            if name not in self.variables or variables.get(name) is not self.variables[name]:
                return False
        return True

    def lasts(self, name: str, value: Any) -> bool:
        """Return True for a variable that is the same in every render."""
        if name in self.variables and value is self.variables[name]:
            return True
        return any(value is one for one in self._lasting)

    def without_marks(self) -> None:
        """Stop marking: the stable part is too short."""
        self.marks = False
        self.messages.clear()


class Template:
    """A compiled template."""

    def __init__(
        self,
        name: str,
        parts: Sequence[_Part],
        paths: frozenset[Path],
        tree: nodes.Template,
        *,
        shows_files: bool,
        shipped: bool = False,
    ) -> None:
        self.name = name
        self.shipped = shipped
        """True for a template that comes with Fusion."""
        self.paths = paths
        self.mentions = _attributes(tree)
        """Names of the attributes that it reads, of loop variables too."""
        self.unguarded = frozenset(_unguarded(tree, frozenset()))
        """Names that it prints or reads outside of an `if` that tests them."""
        self.shows_files = shows_files
        """True if the template tests for files among its inputs and prints them itself."""
        self._parts = parts

    def render(self, variables: Mapping[str, Any], fixed: Fixed | None = None) -> tuple[Message, ...]:
        """Return the messages of the `message` blocks, or the whole text as one user message.

        With `fixed`, `variables` includes its variables. Raises PromptError with template and line.
        """
        messages: list[Message] = []
        with Meter(fixed.lasts if fixed is not None and fixed.marks else None) as meter:
            for part in self._parts:
                if fixed is None or not fixed.holds(part, variables):
                    messages += self._say(part, variables, meter)
                    continue
                if part not in fixed.messages:
                    fixed.messages[part] = self._say(part, variables, meter)
                messages += fixed.messages[part]
        if not messages:
            raise PromptError(f"{self.name}: the rendered prompt is empty; a prompt needs text")
        if fixed is not None and fixed.marks and len(stable_prefix(messages)) < _LEAST_STABLE:
            fixed.without_marks()
            return tuple(message.model_copy(update={"stable": 0}) for message in messages)
        return tuple(messages)

    def render_text(self, variables: Mapping[str, Any]) -> str:
        """Return the text of a template without message blocks and files. Raises PromptError."""
        with Meter() as meter:
            text = "".join([self._run(part, variables) for part in self._parts])
        if meter.messages:
            raise PromptError(f"{self.name}: message blocks are not allowed in a text")
        if meter.files:
            raise PromptError(f"{self.name}: pictures and documents are not allowed in a text")
        return text

    def _say(self, part: _Part, variables: Mapping[str, Any], meter: Meter) -> list[Message]:
        text = self._run(part, variables).strip()
        messages = meter.take_messages()
        if messages and text:
            raise PromptError(f"{self.name}: text outside of its message blocks: {text[:60]!r}")
        if not text:
            return messages
        try:
            message = meter.message("user", text)
        except TemplateError as error:
            raise PromptError(f"{self.name}: {error}") from error
        return [] if message is None else [message]

    def _run(self, part: _Part, variables: Mapping[str, Any]) -> str:
        try:
            return part.run(variables)
        except Exception as error:
            raise _prompt_error(self.name, part.compiled, error, variables) from error


class Expression:
    """A compiled expression such as `item.difficulty >= 4`."""

    def __init__(
        self, source: str, compiled: Callable[..., Any], paths: frozenset[Path], mentions: frozenset[str]
    ) -> None:
        self.source = source
        self.paths = paths
        self.mentions = mentions
        self._compiled = compiled

    @property
    def bare(self) -> bool:
        """True for a plain path such as `plan.subtasks`, which can be streamed item by item."""
        return all(part.isidentifier() for part in self.source.strip().split("."))

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """Return the value. Raises PromptError, also for an undefined name."""
        try:
            with Meter():
                value = self._compiled(variables)
                if isinstance(value, Undefined):
                    str(value)
                return value
        except Exception as error:
            raise PromptError(f"expression {self.source!r}: {_reason(error, variables)}") from error


class Prompts:
    """Compiles templates and expressions of one library, each once."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.files: set[File] = set()
        """Files of the compiled templates."""
        self.texts: dict[str, str] = {}
        """Texts of the templates loaded by name."""
        self._environment = new_environment(library)
        self.template = lru_cache(maxsize=1024)(self._template)
        self.expression = lru_cache(maxsize=1024)(self._expression)

    def _template(self, given: str) -> Template:
        """Compile a template, given by name or as text. Raises PromptError with the line of the mistake."""
        name, text = self._source(given)
        if len(text) > MAX_TEMPLATE:
            raise PromptError(f"{name}: a template of {len(text):,} characters; the most is {MAX_TEMPLATE:,}")
        try:
            tree = self._environment.parse(text)
            self._include(tree, seen=())
            paths = frozenset(self._paths(tree))
            mark_stable(tree, self._environment)
            parts = [self._part(piece) for piece in _pieces(tree, self._environment)]
        except _UNUSABLE as error:
            line = f" line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
            raise PromptError(f"{name}{line}: {_syntax(error)}") from error
        shows_files = any(test.name == "file" for test in tree.find_all(nodes.Test))
        return Template(name, parts, paths, tree, shows_files=shows_files, shipped=self._is_shipped(name))

    def _part(self, tree: nodes.Template) -> _Part:
        return _Part(self._environment.from_string(tree), find_undeclared_variables(tree))

    def _expression(self, source: str) -> Expression:
        if len(source) > MAX_EXPRESSION:
            raise PromptError(f"an expression of {len(source):,} characters; the most is {MAX_EXPRESSION:,}")
        try:
            compiled = self._environment.compile_expression(source, undefined_to_none=False)
            tree = self._environment.parse("{{ (" + source + "\n) }}")
        except _UNUSABLE as error:
            raise PromptError(f"expression {source!r}: {_syntax(error)}") from error
        return Expression(source, compiled, frozenset(self._paths(tree)), _attributes(tree))

    def _source(self, given: str) -> tuple[str, str]:
        if not is_template_name(given):
            return "inline prompt", given
        found = self.library.template(given)
        if found is None:
            raise PromptError(f"no template {given!r}{close_names(given, self.library.templates)}")
        self._found(given, found)
        return given, found[0]

    def _is_shipped(self, name: str) -> bool:
        found = self.library.template(name) if is_template_name(name) else None
        return found is not None and found[1].resolve().is_relative_to(shipped_root() / "prompts")

    def _found(self, name: str, found: tuple[str, File]) -> None:
        self.texts[name] = found[0]
        self.files.add(found[1])

    def _include(self, tree: nodes.Template, *, seen: tuple[str, ...]) -> None:
        """Inline included templates, so that the variables they read are known."""
        for node in tree.find_all((nodes.Import, nodes.FromImport, nodes.Extends)):
            raise TemplateSyntaxError("a template can only `include` others, not import or extend them", node.lineno)
        for include in list(tree.find_all(nodes.Include)):
            name = include.template.value if isinstance(include.template, nodes.Const) else None
            if not isinstance(name, str):
                raise TemplateSyntaxError("an included template must be a name in quotes", include.lineno)
            if name in seen:
                raise TemplateSyntaxError(f"template {name!r} includes itself", include.lineno)
            found = self.library.template(name)
            if found is None:
                known = close_names(name, self.library.templates)
                raise TemplateSyntaxError(f"no template {name!r}{known}", include.lineno)
            self._found(name, found)
            inner = self._environment.parse(found[0])
            self._include(inner, seen=(*seen, name))
            swap(tree, include, nodes.Scope(inner.body))

    def _paths(self, tree: nodes.Template) -> Iterator[Path]:
        free = find_undeclared_variables(tree) - set(self._environment.globals)
        inner: set[int] = set()
        for node in tree.find_all((nodes.Getattr, nodes.Getitem, nodes.Name)):
            if id(node) in inner:
                continue
            path = _path(node, inner)
            if path and path[0] in free:
                yield path


def stable_prefix(messages: Sequence[Message]) -> str:
    """Return the text at the beginning of messages that is the same in all calls of a stage."""
    texts: list[str] = []
    for message in messages:
        texts.append(f"{message.role}\n{message.content[: message.stable]}")
        if message.stable < len(message.content):
            break
    return "\n".join(texts)


def _attributes(tree: nodes.Node) -> frozenset[str]:
    """Return the names of all attributes that are read, by a dot, in brackets, or by the filter `map`."""
    dotted = {node.attr for node in tree.find_all(nodes.Getattr)}
    texts = {str(node.value) for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return frozenset(dotted | {part for text in texts if len(text) < _MAX_PATH for part in text.split(".")})


def _unguarded(node: nodes.Node, tested: frozenset[str]) -> Iterator[str]:
    """Yield the variables that are read where no `if` around them tests the same variable."""
    if isinstance(node, nodes.Name):
        if node.name not in tested and node.ctx == "load":
            yield node.name
        return
    if isinstance(node, (nodes.If, nodes.CondExpr)):
        tested = tested.union(_names(node.test))
    for child in node.iter_child_nodes():
        yield from _unguarded(child, tested)


def _names(node: nodes.Node) -> Iterator[str]:
    for one in (node, *node.find_all(nodes.Name)):
        if isinstance(one, nodes.Name):
            yield one.name


def is_template_name(given: str) -> bool:
    """Return True for a single word with a slash; anything else is the text of a template."""
    return "/" in given and not any(character.isspace() or character in "{}" for character in given)


def _pieces(tree: nodes.Template, environment: Environment) -> list[nodes.Template]:
    """Split a template that consists of message blocks into these; return any other as one piece."""
    blocks = [node for node in tree.body if not _is_blank(node)]
    messages = [node for node in blocks if isinstance(node, nodes.FilterBlock) and node.filter.name == MESSAGE]
    if messages:
        _check_nothing_beside(blocks)
    if len(messages) < len(blocks):
        return [tree]
    pieces = [nodes.Template([node], lineno=1) for node in blocks]
    for piece in pieces:
        piece.set_environment(environment)
    return pieces or [tree]


def _check_nothing_beside(blocks: list[nodes.Node]) -> None:
    """Refuse constant text outside of message blocks."""
    for node in blocks:
        for part in node.nodes if isinstance(node, nodes.Output) else ():
            if isinstance(part, nodes.TemplateData) and (text := part.data.strip()):
                raise TemplateSyntaxError(f"text outside of its message blocks: {text[:60]!r}", part.lineno)


def _is_blank(node: nodes.Node) -> bool:
    """Return True for white space between blocks."""
    return isinstance(node, nodes.Output) and all(
        isinstance(part, nodes.TemplateData) and not part.data.strip() for part in node.nodes
    )


def _path(node: nodes.Node, inner: set[int]) -> Path | None:
    """Return the path that a node reads, and add its inner nodes to `inner`."""
    attributes: list[str] = []
    while not isinstance(node, nodes.Name):
        if isinstance(node, nodes.Getattr):
            attributes.append(node.attr)
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
            of_stage = isinstance(node.node, nodes.Name) and isinstance(node.arg.value, int)
            attributes = [] if of_stage else [*attributes, str(node.arg.value)]  # work[0] is not a field of work
        else:
            return None
        node = node.node
        inner.add(id(node))
    return (node.name, *reversed(attributes)) if node.ctx == "load" else None


def _prompt_error(name: str, compiled: JinjaTemplate, error: Exception, variables: Mapping[str, Any]) -> PromptError:
    line, at = 0, error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == (compiled.filename or "<template>"):
            line = compiled.get_corresponding_lineno(at.tb_lineno)
        at = at.tb_next
    place = f"{name} line {line}" if line else name
    return PromptError(f"{place}: {_reason(error, variables)}")


def _syntax(error: Exception) -> str:
    """Return the message of the parser without its position, which we add."""
    return str(error.message) if isinstance(error, TemplateSyntaxError) else str(error)


def _reason(error: Exception, variables: Mapping[str, Any]) -> str:
    if isinstance(error, RecursionError):
        return "endless recursion"
    if isinstance(error, TemplateError):
        text = str(error)
        offered = ", ".join(sorted(variables))
        return f"{text}; it can read: {offered}" if "is undefined" in text and " has no " not in text else text
    return f"{type(error).__name__}: {error}"
