"""Templates become messages, expressions become values.

Rendering is a pure function of its inputs. Templates come from files and YAML only; what a model wrote is data.
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
from fusion.prompts.environment import MESSAGE, Environment, new_environment, swap
from fusion.prompts.library import Library
from fusion.prompts.limits import Meter

Path = tuple[str, ...]
"""A free variable and the attributes read from it: `plan.goal` is `("plan", "goal")`."""

_UNUSABLE = (TemplateError, SyntaxError, RecursionError, ValueError, OverflowError, MemoryError)
"""What compiling may raise: Jinja's own, and what Python says of blocks or brackets that are nested too deep."""

MAX_TEMPLATE = 262_144
MAX_EXPRESSION = 10_000


class _Part:
    """A piece of a template that is rendered by itself: one message block, or all of a template with other text."""

    def __init__(self, compiled: JinjaTemplate, reads: Collection[str]) -> None:
        self.compiled = compiled
        self.names = tuple(reads)
        self._globals = dict(compiled.globals)

    def run(self, variables: Mapping[str, Any]) -> str:
        context = self.compiled.new_context({**self._globals, **variables}, shared=True)
        return "".join(self.compiled.root_render_func(context))


class Fixed:
    """What stays as it is from render to render, and the messages that were made of nothing else, made once."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.variables = dict(variables)
        self.messages: dict[_Part, list[Message]] = {}

    def holds(self, part: _Part, variables: Mapping[str, Any]) -> bool:
        """True if all that the part reads of `variables` is fixed."""
        for name in part.names:
            if name not in self.variables or variables.get(name) is not self.variables[name]:
                return False
        return True


class Template:
    """A compiled template. `render` gives the messages that it makes of its variables."""

    def __init__(self, name: str, parts: Sequence[_Part], paths: frozenset[Path], *, shows_files: bool) -> None:
        self.name = name
        self.paths = paths
        self.shows_files = shows_files
        """True where it looks for the inputs that are pictures or documents, and shows them all."""
        self._parts = parts

    def render(self, variables: Mapping[str, Any], fixed: Fixed | None = None) -> tuple[Message, ...]:
        """The messages: the `message` blocks, or all of the text as one message of the user's.

        With `fixed`, `variables` holds what is fixed and more. Raises PromptError, naming template and line.
        """
        messages: list[Message] = []
        with Meter() as meter:
            for part in self._parts:
                if fixed is None or not fixed.holds(part, variables):
                    messages += self._say(part, variables, meter)
                    continue
                if part not in fixed.messages:
                    fixed.messages[part] = self._say(part, variables, meter)
                messages += fixed.messages[part]
        if not messages:
            raise PromptError(f"{self.name}: rendered to nothing; a prompt needs text")
        return tuple(messages)

    def render_text(self, variables: Mapping[str, Any]) -> str:
        """The text of a template that makes no messages."""
        with Meter() as meter:
            text = "".join([self._run(part, variables) for part in self._parts])
        if meter.messages:
            raise PromptError(f"{self.name}: it makes a text, which has no message blocks")
        if meter.files:
            raise PromptError(f"{self.name}: it makes a text, which holds no picture or document")
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
    """A compiled expression: `item.difficulty >= 4`."""

    def __init__(self, source: str, compiled: Callable[..., Any], paths: frozenset[Path]) -> None:
        self.source = source
        self.paths = paths
        self._compiled = compiled

    @property
    def bare(self) -> bool:
        """True for a plain path such as `plan.subtasks`, which can be followed item by item."""
        return all(part.isidentifier() for part in self.source.strip().split("."))

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """Its value. Raises PromptError; an undefined name is an error and never None."""
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
        """The files of the templates that were compiled."""
        self.texts: dict[str, str] = {}
        """The texts of those that were found by their names."""
        self._environment = new_environment(library)
        self.template = lru_cache(maxsize=1024)(self._template)
        self.expression = lru_cache(maxsize=1024)(self._expression)

    def _template(self, given: str) -> Template:
        """The template that `given` names, or that it is. Raises PromptError with the line of the mistake."""
        name, text = self._source(given)
        if len(text) > MAX_TEMPLATE:
            raise PromptError(f"{name}: a template of {len(text):,} characters; the most is {MAX_TEMPLATE:,}")
        try:
            tree = self._environment.parse(text)
            self._include(tree, seen=())
            paths = frozenset(self._paths(tree))
            parts = [self._part(piece) for piece in _pieces(tree, self._environment)]
        except _UNUSABLE as error:
            line = f" line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
            raise PromptError(f"{name}{line}: {_syntax(error)}") from error
        return Template(
            name, parts, paths, shows_files=any(test.name == "file" for test in tree.find_all(nodes.Test))
        )

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
        return Expression(source, compiled, frozenset(self._paths(tree)))

    def _source(self, given: str) -> tuple[str, str]:
        if not is_template_name(given):
            return "inline prompt", given
        found = self.library.template(given)
        if found is None:
            raise PromptError(f"no template {given!r}{close_names(given, self.library.templates)}")
        self._found(given, found)
        return given, found[0]

    def _found(self, name: str, found: tuple[str, File]) -> None:
        self.texts[name] = found[0]
        self.files.add(found[1])

    def _include(self, tree: nodes.Template, *, seen: tuple[str, ...]) -> None:
        """Put the templates that a template includes in their places: what they read is read by it."""
        for node in tree.find_all((nodes.Import, nodes.FromImport, nodes.Extends)):
            raise TemplateSyntaxError("a template takes in others with `include` only", node.lineno)
        for include in list(tree.find_all(nodes.Include)):
            name = include.template.value if isinstance(include.template, nodes.Const) else None
            if not isinstance(name, str):
                raise TemplateSyntaxError("a template is included by its name in quotes only", include.lineno)
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


def is_template_name(given: str) -> bool:
    """A single word with a slash is a template's name; anything with a space or newline is the template itself."""
    return "/" in given and not any(character.isspace() or character in "{}" for character in given)


def _pieces(tree: nodes.Template, environment: Environment) -> list[nodes.Template]:
    """The message blocks of a template that is made of nothing else; any other template in one piece."""
    said = [node for node in tree.body if not _is_blank(node)]
    messages = [node for node in said if isinstance(node, nodes.FilterBlock) and node.filter.name == MESSAGE]
    if messages:
        _check_nothing_beside(said)
    if len(messages) < len(said):
        return [tree]
    pieces = [nodes.Template([node], lineno=1) for node in said]
    for piece in pieces:
        piece.set_environment(environment)
    return pieces or [tree]


def _check_nothing_beside(said: list[nodes.Node]) -> None:
    """Refuse text that would stand outside of the message blocks whatever the variables hold."""
    for node in said:
        for part in node.nodes if isinstance(node, nodes.Output) else ():
            if isinstance(part, nodes.TemplateData) and (text := part.data.strip()):
                raise TemplateSyntaxError(f"text outside of its message blocks: {text[:60]!r}", part.lineno)


def _is_blank(node: nodes.Node) -> bool:
    """True for the white space between two blocks."""
    return isinstance(node, nodes.Output) and all(
        isinstance(part, nodes.TemplateData) and not part.data.strip() for part in node.nodes
    )


def _path(node: nodes.Node, inner: set[int]) -> Path | None:
    """The path that a node reads, outermost attribute last; marks the nodes inside of it as done."""
    attributes: list[str] = []
    while not isinstance(node, nodes.Name):
        if isinstance(node, nodes.Getattr):
            attributes.append(node.attr)
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
            of_stage = isinstance(node.node, nodes.Name) and isinstance(node.arg.value, int)
            attributes = [] if of_stage else [*attributes, str(node.arg.value)]  # work[0] is no field of work
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
    """What the parser found, without the place, which is said by us."""
    return str(error.message) if isinstance(error, TemplateSyntaxError) else str(error)


def _reason(error: Exception, variables: Mapping[str, Any]) -> str:
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    if isinstance(error, TemplateError):
        text = str(error)
        offered = ", ".join(sorted(variables))
        return f"{text}; it can read: {offered}" if "is undefined" in text and " has no " not in text else text
    return f"{type(error).__name__}: {error}"
