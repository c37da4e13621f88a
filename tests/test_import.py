"""What an import loads and offers: the public names, every module by itself, and nothing heavy."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import networkx
import pytest

import fusion
import fusion.bench
import fusion.stages
from tests.cli.conftest import environment

HEAVY = ("litellm", "openai", "aiohttp", "networkx", "sqlite3")
PLUGGED = {"fusion.plugins.litellm", "fusion.plugins.llm"}
"""Plug-ins of programs that they load themselves; their own tests import them first."""
MODULES = sorted({"fusion", *(module.name for module in pkgutil.walk_packages(fusion.__path__, "fusion."))} - PLUGGED)

# Imports all modules in one process, then each of those in a circle in a process of its own, in which no other module
# of the package is loaded yet. All that they load of others is loaded once, before: a first process tells its names.
EACH = """
import gc, importlib, os, sys, traceback
from contextlib import suppress
names, (told, telling) = sys.argv[1:], os.pipe()
names, circles = names[:names.index("-")], names[names.index("-") + 1:]

def forked(work):
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child

def tell():
    for name in names:
        importlib.import_module(name)
    with os.fdopen(telling, "w") as out:
        print(*(name for name in sys.modules if name.partition(".")[0] != "fusion"), file=out)

def fails(work):
    return os.waitpid(forked(work), 0)[1] != 0

first = forked(tell)
os.close(telling)
with os.fdopen(told) as lines:
    others = lines.read().split()
for name in others:
    with suppress(ImportError):
        importlib.import_module(name)
assert os.waitpid(first, 0)[1] == 0
assert not any(name.partition(".")[0] == "fusion" for name in sys.modules)
gc.freeze()
print(*(name for name in circles if fails(lambda: importlib.import_module(name))))
"""


def in_circles() -> list[str]:
    """Modules that import each other: no other module can depend on which one is imported first."""
    graph = networkx.DiGraph()
    for name in MODULES:
        graph.add_edges_from((name, ".".join(parts)) for parts in accumulate_parts(name) if ".".join(parts) != name)
        graph.add_edges_from((name, other) for other in loaded_with(name) if other != name)
    return sorted(name for one in networkx.strongly_connected_components(graph) if len(one) > 1 for name in one)


def accumulate_parts(name: str) -> Iterator[list[str]]:
    parts = name.split(".")
    return (parts[:length] for length in range(1, len(parts) + 1))


def loaded_with(name: str) -> Iterator[str]:
    """The modules of ours that importing this one loads by itself: not those within functions, nor for types."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    for node in at_import(ast.parse(Path(spec.origin).read_text()).body):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            found = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (other for other in found if other in MODULES)


def at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from at_import(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            yield from at_import([*node.body, *getattr(node, "orelse", [])])


def python(code: str, *words: str) -> str:
    """What this code prints, in a fresh interpreter, with nothing on standard error."""
    given = [sys.executable, "-W", "error", "-c", code, *words]
    done = subprocess.run(given, capture_output=True, text=True, env=environment(), timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


# What is loaded.


@pytest.mark.parametrize(
    "code",
    [
        "import fusion",
        "from fusion import *",
        "import fusion; fusion.Fusion(profile='local').close()",
        "import fusion; fusion.Pipeline.from_yaml('stages: {a: {kind: generate, prompt: Hi.}}\\noutput: a\\n')",
        "import fusion.cli.app; fusion.cli.app.application()",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_used(code: str) -> None:
    assert python(f"{code}\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])") == ""


def test_import_fusion_stages_loads_nothing_but_packages() -> None:
    loaded = python("import fusion.stages, sys; print(*sorted(name for name in sys.modules if 'fusion.' in name))")
    assert loaded == "fusion.stages"
    assert python("from fusion.stages import Stage; import sys; print('asyncio' in sys.modules)") == "False"


def test_import_fusion_loads_nothing_but_itself() -> None:
    assert python("import fusion, sys; print(*sorted(name for name in sys.modules if 'fusion.' in name))") == ""
    assert python("import fusion, sys; dir(fusion); print('pydantic' in sys.modules)") == "False"


def test_every_module_can_be_the_first_to_be_imported() -> None:
    assert python(EACH, *(name for name in MODULES if name != "fusion.__main__"), "-", *in_circles()) == ""


# The public API.


def test_the_public_names_are_sorted_and_listed() -> None:
    assert fusion.__all__ == sorted(fusion.__all__)
    assert dir(fusion) == sorted([*fusion.__all__, "__version__"])


@pytest.mark.parametrize("name", fusion.__all__)
def test_a_public_name_resolves_and_says_what_it_is_for(name: str) -> None:
    public = getattr(fusion, name)
    assert public.__name__ == name
    assert summary(public.__doc__)


def test_every_public_method_says_what_it_is_for() -> None:
    bare = [
        f"{name}.{member}"
        for name in fusion.__all__
        for member, value in inspect.getmembers(getattr(fusion, name), inspect.isroutine)
        if not member.startswith("_") and is_ours(value) and not summary(inspect.getdoc(value))
    ]
    assert bare == []


def is_ours(routine: Any) -> bool:
    return str(getattr(routine, "__module__", "")).startswith("fusion.")


def test_a_name_that_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="module 'fusion' has no attribute 'Fushion'"):
        getattr(fusion, "Fushion")  # noqa: B009 - a constant name is what is tested


@pytest.mark.parametrize("package", [fusion, fusion.bench, fusion.stages])
def test_type_checkers_see_the_names_that_are_loaded_lazily(package: Any) -> None:
    exported = {
        alias.name
        for node in ast.walk(ast.parse(Path(package.__file__).read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert sorted(exported) == package.__all__
    assert all(getattr(package, name) for name in package.__all__)


def test_the_names_for_plug_ins_are_sorted_and_resolve() -> None:
    assert fusion.stages.__all__ == sorted(fusion.stages.__all__)
    assert all(getattr(fusion.stages, name) is not None for name in fusion.stages.__all__)
    with pytest.raises(AttributeError, match=r"module 'fusion\.stages' has no attribute 'Stag'"):
        getattr(fusion.stages, "Stag")  # noqa: B009 - a constant name is what is tested


def summary(docstring: str | None) -> str:
    """A docstring's first line, if it is a sentence."""
    line = (docstring or "").strip().partition("\n")[0]
    return line if line.endswith((".", "?")) else ""


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    from fusion.core import errors

    drawn = re.findall(r"^( *)([A-Z]\w+(?:Error|Failed))(?: +exit (\d+))?", errors.__doc__ or "", re.MULTILINE)
    branch: list[type[errors.FusionError]] = []
    for indent, name, code in drawn:
        error = getattr(errors, name)
        del branch[len(indent) // 2 :]
        assert error.__bases__ == ((branch[-1],) if branch else (Exception,))
        assert error.exit_code == (int(code) if code else branch[-1].exit_code)
        branch.append(error)
    assert {name for _, name, _ in drawn} == {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.FusionError)
    }


# The modules.

DOORS = (fusion, fusion.bench, fusion.stages)
"""Packages that users import from; all other modules may move."""


def loaded() -> Iterator[ModuleType]:
    for name in MODULES:
        if not name.endswith("__main__"):
            yield importlib.import_module(name)


def test_every_module_says_in_one_sentence_what_it_is_for() -> None:
    assert [module.__name__ for module in loaded() if not summary(module.__doc__)] == []


def test_only_public_packages_list_their_names() -> None:
    assert [module.__name__ for module in loaded() if hasattr(module, "__all__") and module not in DOORS] == []


def test_no_module_takes_a_private_name_of_another() -> None:
    taken = [
        f"{module.__name__}: {source}.{name}"
        for module in loaded()
        for source, name in imported(Path(module.__file__ or ""))
        if source.startswith("fusion") and name.startswith("_") and not name.startswith("__")
    ]
    assert taken == []


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of every `from … import …` in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
