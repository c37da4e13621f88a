"""LaTeX: parses formulas to trees by our own grammar, since sympy's parsers evaluate their input as Python."""

import re
from typing import Any

Tree = list[Any]
"""`["number", "3/4"]`, `["symbol", "x"]`, or an operation and its operands."""

MAX_LENGTH = 400
MAX_DIGITS = 40
MAX_DEPTH = 40

_TOKEN = re.compile(r"\s*(\d+\.\d+|\.\d+|\d+|\\[a-zA-Z]+|[a-zA-Z]|[-+*/^(){}\[\]|!_%=,])")
_FUNCTIONS = frozenset({"sin", "cos", "tan", "cot", "sec", "csc", "exp", "log", "ln", "arcsin", "arccos", "arctan"})
_SYMBOLS = frozenset({"alpha", "beta", "gamma", "theta", "lambda", "mu", "phi", "omega", "pi", "infty", "epsilon"})
_SPACING = re.compile(r"\\(?:left|right|displaystyle|[!,;:> ])|\$|~")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf)\s*\{[^{}]*\}")
_FRACTION = re.compile(r"\\[dtc]frac")


class _UnreadableError(Exception):
    """Not a formula of this grammar."""


def parse(text: str) -> Tree | None:
    """Return the tree of a formula; None for other text, or if too large for an answer."""
    plain = _TEXT.sub("", _SPACING.sub("", _FRACTION.sub(r"\\frac", text))).replace("^\\circ", "").strip().rstrip(".")
    plain = plain.replace("\\%", "").replace("**", "^").replace("\\cdot", "*").replace("\\times", "*")
    if not plain or len(plain) > MAX_LENGTH:
        return None
    try:
        return _Parser(plain).parse()
    except (_UnreadableError, RecursionError):
        return None


def parts(text: str) -> tuple[str, list[str]]:
    """Return the brackets of a list and its parts; no brackets and one part for other text.

    >>> parts("(1, [2, 3])")
    ('()', ['1', '[2, 3]'])
    """
    bare = re.sub(r"\\(?:left|right|[!,;:> ])|\$", "", text).replace("\\{", "{").replace("\\}", "}").strip()
    # The comma of 1,000 is no separator.
    bare = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", bare) if not bare.startswith(("(", "[", "{")) else bare
    pair = bare[:1] + bare[-1:]
    inner = bare[1:-1] if pair in ("()", "[]", "{}", "(]", "[)") else bare
    pieces = _split(inner)
    if len(pieces) < 2 and (pair != "{}" or inner is bare):
        return "", [bare]
    return (pair if inner is not bare else ""), pieces


def _split(text: str) -> list[str]:
    pieces, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            pieces.append(text[start:at].strip())
            start = at + 1
    return [*pieces, text[start:].strip()]


class _Parser:
    """Recursive descent: sum, product, sign, power, atom. Adjacent factors are multiplied."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = _TOKEN.findall(text)
        if "".join(self._tokens) != "".join(text.split()):
            raise _UnreadableError
        self._at = 0
        self._depth = 0

    def parse(self) -> Tree:
        tree = self._sum()
        return tree if self._at == len(self._tokens) else self._fail()

    def _sum(self) -> Tree:
        self._deepen()
        tree = self._product()
        while sign := self._takes("+", "-"):
            tree = [sign, tree, self._product()]
        self._depth -= 1
        return tree

    def _deepen(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _UnreadableError

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _takes(self, *tokens: str) -> str | None:
        if self._peek() in tokens:
            self._at += 1
            return self._tokens[self._at - 1]
        return None

    def _needs(self, token: str) -> None:
        if not self._takes(token):
            raise _UnreadableError

    def _product(self) -> Tree:
        tree = self._signed()
        while True:
            if sign := self._takes("*", "/"):
                tree = [sign, tree, self._signed()]
            elif self._peek() == "\\frac" and self._tokens[self._at - 1].isdigit():
                tree = ["+", tree, self._power()]  # 2\frac{1}{3} is a mixed number
            elif self._starts():
                tree = ["*", tree, self._power()]
            else:
                return tree

    def _starts(self) -> bool:
        token = self._peek()
        return token in ("(", "{") or token[:1].isalnum() or token[:1] == "." or (token[:1] == "\\")

    def _signed(self) -> Tree:
        if sign := self._takes("-", "+"):
            self._deepen()
            value = self._signed()
            self._depth -= 1
            return ["-", ["number", "0"], value] if sign == "-" else value
        return self._power()

    def _power(self) -> Tree:
        tree = self._atom()
        while self._takes("!"):
            tree = ["!", tree]
        if self._takes("%"):
            return tree
        if self._takes("^"):
            return ["^", tree, self._signed() if self._peek() == "-" else self._argument()]
        return tree

    def _argument(self) -> Tree:
        """Parse a group in braces, or one token: \\frac12."""
        if self._takes("{"):
            tree = self._sum()
            self._needs("}")
            return tree
        token = self._peek()
        if token.isdigit() and len(token) > 1:
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
        return self._atom()

    def _atom(self) -> Tree:
        token = self._peek()
        self._at += 1
        if token[:1].isdigit() or token[:1] == ".":
            if len(token) > MAX_DIGITS:
                raise _UnreadableError
            return ["number", token]
        if token in ("(", "{", "["):
            tree = self._sum()
            self._needs({"(": ")", "{": "}", "[": "]"}[token])
            return tree
        if token == "|":  # noqa: S105 - a bar, not a secret
            tree = self._sum()
            self._needs("|")
            return ["abs", tree]
        if len(token) == 1 and token.isalpha():
            return self._symbol(token)
        return self._command(token.removeprefix("\\")) if token.startswith("\\") else self._fail()

    def _symbol(self, name: str) -> Tree:
        if self._takes("_"):
            index = self._argument()
            name = f"{name}_{index[1]}" if index[0] in ("number", "symbol") else self._fail()
        return ["symbol", name]

    def _command(self, name: str) -> Tree:
        if name == "frac":
            return ["/", self._argument(), self._argument()]
        if name in ("binom", "tbinom", "dbinom"):
            return ["binom", self._argument(), self._argument()]
        if name == "sqrt":
            return self._root()
        if name in _FUNCTIONS:
            return self._function(name)
        return self._symbol(name) if name in _SYMBOLS else self._fail()

    def _root(self) -> Tree:
        index: Tree = ["number", "2"]
        if self._takes("["):
            index = self._sum()
            self._needs("]")
        return ["root", self._argument(), index]

    def _function(self, name: str) -> Tree:
        base = self._argument() if name == "log" and self._takes("_") else None
        power = self._argument() if self._takes("^") else None
        value = self._argument() if self._peek() == "{" else self._power()
        tree = ["log_of", base, value] if base is not None else [name, value]
        return ["^", tree, power] if power is not None else tree

    def _fail(self) -> Any:
        raise _UnreadableError
