"""Solver: the process that compares formulas with sympy, a line of JSON in, a line of JSON out.

Its input are trees, never text, and it builds only the operations of its tables. Its parent kills it after a timeout.
It runs as a script and imports nothing of the package.
"""

import json
import resource
import sys
from typing import Any

MEMORY = 2_000_000_000
POINTS = (0.37, 1.61, -0.83)


def build(tree: Any) -> Any:
    """Return the sympy expression of a tree."""
    import sympy

    head, *parts = tree
    if head == "number":
        return sympy.Rational(parts[0])
    if head == "symbol":
        known = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infty": sympy.oo}
        return known.get(parts[0]) if parts[0] in known else sympy.Symbol(parts[0])
    values = [build(part) for part in parts]
    tables = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
        "^": lambda a, b: a**b,
        "!": sympy.factorial,
        "root": lambda a, n: sympy.root(a, n),
        "binom": sympy.binomial,
        "abs": sympy.Abs,
        "log_of": lambda base, a: sympy.log(a, base),
        **{name: getattr(sympy, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "exp", "log")},
        **{f"arc{name}": getattr(sympy, f"a{name}") for name in ("sin", "cos", "tan")},
        "ln": sympy.log,
    }
    return tables[head](*values)


def equal(left: Any, right: Any) -> bool:
    """Return True if two trees are equal: tested at a few points first, then symbolically."""
    import sympy

    one, other = build(left), build(right)
    if any(side.has(sympy.zoo, sympy.nan) for side in (one, other)):
        return False
    if one == other:
        return True
    names = sorted(one.free_symbols | other.free_symbols, key=str)
    for point in POINTS:
        values = {name: point + 0.1 * index for index, name in enumerate(names)}
        gap = sympy.N((one - other).subs(values), 30)
        scale = max(1, abs(sympy.N(other.subs(values))))
        if gap.is_number and gap.is_finite and abs(gap) > 1e-9 * scale:
            return False
    return bool(sympy.simplify(one - other) == 0)


def main() -> None:
    """Answer each line until the end of the input."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import sympy  # noqa: F401 - loaded before the first timeout starts

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        try:
            answer = equal(*json.loads(line))
        except Exception:  # noqa: BLE001 - formulas that cannot be compared are not equal
            answer = False
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
