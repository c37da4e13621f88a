"""Write the reference pages from the code: `python docs/reference.py`; `--check` only compares them.

Every page in `pages/reference/` comes from here. Names, types, defaults and descriptions are the code's own.
"""

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel
from tables import (
    KEY_HEAD,
    code,
    fenced,
    field_rows,
    first_sentence,
    long_form,
    output,
    property_rows,
    prose,
    schema_rows,
    table,
)
from typer.testing import CliRunner

import fusion
import fusion.bench
import fusion.stages
from fusion import FusionError, Pipeline, Result
from fusion.bench.scorers.registry import NAMES as SCORERS
from fusion.bench.suite import json_schema as suite_schema
from fusion.cli.app import application
from fusion.cli.exits import EPILOG, Ending
from fusion.core.config import SettingsFile
from fusion.core.events import Event, EventBase
from fusion.models.profiles import load_profiles
from fusion.pipeline.json_schema import json_schema as pipeline_schema
from fusion.pipeline.reference.explain import Explanation, Parameter, explain, summary
from fusion.prompts.library import shipped_root

PAGES = Path(__file__).parent / "pages" / "reference"
NOTE = "<!-- Written by `python docs/reference.py`. Edit the code, not this page. -->"
ROOT = Path(__file__).parents[1]

VARIABLES = {
    "FUSION_PROFILE": "The profile to use, where `--profile` names none.",
    "FUSION_CONFIG": "Your own settings, where `--config` names none; else those in your configuration folder.",
    "FUSION_STORE": "The file that keeps runs, where `--store` names none.",
    "FUSION_MODELS_DIR": "The folder of the embedded models' weights; by default in the user's cache folder.",
    "FUSION_MODELS_SOURCE": "Sources of weights, in order: `hub` (the default), `wheels`.",
    "FUSION_WIRE": "Way to models that both clients reach: `direct` (the default), `litellm`.",
    "FUSION_SERVER_TOKEN": "The token of `fusion serve`, for a server with one caller.",
    "FUSION_LOCAL_THREADS": "Threads of all embedded models together; by default one for each core.",
}
"""The environment variables of Fusion itself. A variable that the code names and this table lacks is an error."""

SCORER_RULES = {
    "exact": "its text is the gold answer's, but for case and the writing of numbers",
    "number": "the number that it marks, or else its last number, is equal",
    "code": "its literal is equal",
    "math": "its formula is the same, normalised or by sympy",
    "exact_match": "it matches as SQuAD and NQ-open define it; gold answers may be a list",
    "f1": "it shares words with the gold answer, as SQuAD defines it: a value from 0 to 1",
    "contains": "the gold answer is in it; gold answers may be a list",
    "ifeval": "it follows every instruction that code can check",
    "records": "the records of a document are those of the gold answer",
    "unit_tests": "its code passes the gold answer, Python tests, in the [sandbox](../how-to/sandbox.md)",
    "total": "the sum of the records is that of the gold answer",
}


# Pages.


def kinds_page() -> str:
    found = {kind: explain(kind) for kind in summary()}
    shared = shared_keys(found.values())
    overview = table(
        ("kind", "purpose", "output fields"),
        (
            [f"[`{kind}`](#{kind})", summary()[kind], ", ".join(map(output, one.fields))]
            for kind, one in found.items()
        ),
    )
    intro = (
        "A stage has one of these kinds. `fusion explain KIND` prints the same in a terminal. A field marked "
        "(items) is a feed: it hands on item by item. The bare name of a stage means its first field."
    )
    keys = table(KEY_HEAD, (key_row(one) for one in shared.values()))
    parts = ["# Stage kinds", intro, overview, "## Shared keys", "Most kinds take these keys.", keys]
    return "\n\n".join([*parts, *(kind_section(one, shared) for one in found.values())])


def shared_keys(kinds: Iterable[Explanation]) -> dict[str, Parameter]:
    """The keys that at least half of the kinds have in the same words."""
    seen: dict[Parameter, int] = {}
    kinds = list(kinds)
    for one in kinds:
        for parameter in one.parameters:
            hashable = parameter._replace(default=repr(parameter.default))
            seen[hashable] = seen.get(hashable, 0) + 1
    return {one.name: one for one, count in seen.items() if count * 2 >= len(kinds)}


def key_row(one: Parameter) -> list[str]:
    shown = one.default if isinstance(one.default, str) and one.default not in ("None", "{}", "[]") else ""
    if not isinstance(one.default, str) and one.default is not None and one.default not in ({}, []):
        shown = str(one.default)
    return [code(one.name), one.type, "required" if one.required else code(repr(shown)[1:-1]), one.description]


def kind_section(one: Explanation, shared: Mapping[str, Parameter]) -> str:
    own, common = [], []
    for parameter in one.parameters:
        same = shared.get(parameter.name) == parameter._replace(default=repr(parameter.default))
        (common if same else own).append(parameter)
    parts = [f"## {one.kind}", one.purpose]
    parts += [table(KEY_HEAD, map(key_row, own))] if own else []
    parts += [f"Shared keys: {', '.join(code(parameter.name) for parameter in common)}."] if common else []
    parts.append(f"Output fields: {', '.join(map(output, one.fields))}.")
    parts += [
        f"Template `{use.key}`, by default {code(use.default or 'none')}, sees {', '.join(map(code, use.sees))}."
        for use in one.templates
    ]
    parts += [f"Calls: {one.cost}"] if one.cost else []
    parts += [" ".join(["In a quote:", *one.supposed])] if one.supposed else []
    return "\n\n".join([*parts, *([fenced(one.example, "yaml")] if one.example else [])])


def cli_page() -> str:
    root = typer.main.get_command(application())
    intro = "`fusion COMMAND --help` prints these texts."
    return "\n\n".join(["# Command line", intro, *command_sections(root, ())])


def command_sections(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    words = " ".join(("fusion", *path))
    help_text = CliRunner(env={"COLUMNS": "96", "TERMINAL_WIDTH": "96"}).invoke(
        application(), [*path, "--help"], prog_name="fusion", obj=Ending(), terminal_width=96
    )
    yield f"## {words}\n\n{fenced(help_text.output)}"
    for name, below in getattr(command, "commands", {}).items():
        yield from command_sections(below, (*path, name))


def settings_page() -> str:
    schema = SettingsFile.model_json_schema()
    definitions = schema["$defs"]
    del definitions["LimitsTable"]["properties"]["models"]  # written as tables of their own, as is the next
    del definitions["ServerTable"]["properties"]["pipelines"]
    sections = {
        "Top level": {"properties": {"profile": schema["properties"]["profile"]}},
        "[endpoints.NAME]": definitions["Endpoint"],
        "[roles]": definitions["RoleSpec"],
        '[prices."MODEL"]': definitions["Tariff"],
        "[defaults]": definitions["Defaults"],
        "[limits]": definitions["LimitsTable"],
        "[limits.PROVIDER_OR_MODEL]": definitions["Ceilings"],
        "[budgets.NAME]": definitions["BudgetTable"],
        "[store]": definitions["StoreTable"],
        "[telemetry]": definitions["TelemetryTable"],
        "[policy]": definitions["PolicyTable"],
        "[sandbox]": definitions["SandboxTable"],
        "[policy.max_price]": definitions["PriceLimit"],
        "[server]": definitions["ServerTable"],
        '[server.pipelines."MODEL"]': definitions["ServedTable"],
        "[mcp.NAME]": definitions["McpTable"],
        "[python]": definitions["PythonTable"],
    }
    parts = [
        "# Settings",
        "Fusion reads settings from `fusion.toml` and from environment variables. Your own file is that of "
        "`--config`, else of `FUSION_CONFIG`, else the one in your configuration folder. The nearest file from the "
        "working directory upwards is the project's, and wins over your own. Only its `profile`, `[roles]`, "
        "`[defaults]`, `[policy]` and tighter `[limits]` count until you "
        "[trust it](../how-to/security.md#settings-of-a-project). A command-line option wins over a variable, a "
        "variable over the files. [Policies](../how-to/policy.md) of all files count, that of the machine included.",
        "## fusion.toml",
    ]
    for title, part in sections.items():
        parts += [f"### {title}", table(KEY_HEAD, schema_rows(part, definitions))]
    parts += [
        "A role may be one model's name instead of a table. A limit holds every run: the lower of it and the "
        "pipeline's counts, and `--budget` wins over both.",
    ]
    parts += ["## Environment variables", variables()]
    parts += [
        "Keys of providers are read from the environment alone: see [profiles](profiles.md) for the variable of each "
        "provider. An endpoint's `key_env` names its own variable."
    ]
    return "\n\n".join(parts)


def variables() -> str:
    package = Path(inspect.getfile(fusion)).parent
    named = {name for path in package.rglob("*.py") for name in re.findall(r"\bFUSION_[A-Z_]+\b", path.read_text())}
    undescribed = {name for name in named if not name.endswith("_")} ^ VARIABLES.keys()
    if undescribed:
        raise SystemExit(f"docs/reference.py: VARIABLES and the code differ in {', '.join(sorted(undescribed))}")
    return table(("variable", "meaning"), ([code(name), text] for name, text in VARIABLES.items()))


def profiles_page() -> str:
    rows, chains = [], []
    for name, one in load_profiles().items():
        needs = ", ".join(map(code, one.keys)) or (f"those of {one.providers} others" if one.providers else "none")
        rows.append([code(name), needs, "when asked for" if one.explicit else "when set" if one.keys else "else"])
        chains += [[code(name), code(role), ", ".join(map(code, chain))] for role, chain in one.roles.items()]
    return "\n\n".join(
        [
            "# Profiles",
            "A profile names a chain of models for each role. The column *taken* says when Fusion takes a profile "
            "that nothing names: the first whose variables are all set, else `local`.",
            table(("profile", "variables", "taken"), rows),
            "## Chains",
            "The first model of a chain is asked; where it cannot answer, the next one is. `fusion models` prints "
            "the chains with keys, prices, contexts and regions.",
            table(("profile", "role", "models"), chains),
        ]
    )


def events_page() -> str:
    common = table(("field", "type", "default"), field_rows(EventBase))
    parts = [
        "# Events",
        "Everything that happens in a run is an event. `fusion run --events` prints each as one line of JSON; "
        "`on_event` receives them in Python. The field `type` tells events apart.",
        f"## Fields of every event\n\n{common}",
    ]
    for cls in get_args(get_args(Event)[0]):
        own = table(("field", "type", "default"), field_rows(cls, [*EventBase.model_fields, "type"]))
        parts.append(f"## {cls.model_fields['type'].default}\n\n{prose(cls.__doc__)}")
        parts += [own] if own.count("\n") > 1 else []
    return "\n\n".join(parts)


def result_page() -> str:
    intro = (
        "`fusion run --json` prints a Result, and `Fusion().complete(…)` returns one. Values are frozen. Money is "
        "exact, in US dollars; times are seconds; a cost that is not known is never zero."
    )
    parts = ["# Result", intro]
    for cls in values_of(Result):
        rows = [*field_rows(cls), *property_rows(cls)]
        parts += [f"## {cls.__name__}", prose(cls.__doc__), table(("field", "type", "default"), rows)]
    return "\n\n".join(parts)


def values_of(cls: type[BaseModel]) -> list[type[BaseModel]]:
    """A value and all values in its fields, each once, in the order of reading."""
    found = [cls]
    for one in found:
        for field in one.model_fields.values():
            found += [inner for inner in classes_in(field.annotation) if inner not in found]
    return found


def classes_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from classes_in(argument)


def errors_page() -> str:
    tree = "\n".join(error_tree(FusionError, 0))
    rows = (
        [code(cls.__name__), code(cls.exit_code), code(cls.http_status), first_sentence(cls.__doc__)]
        for cls, _ in errors(FusionError, 0)
    )
    exits = re.findall(r"^  (\d+) +(.*)$", EPILOG, re.MULTILINE)
    return "\n\n".join(
        [
            "# Errors and exit codes",
            "## Exit codes",
            table(("code", "meaning"), ([code(number), text] for number, text in exits)),
            "`--debug` shows the traceback of an internal error. After an interrupt the finished work is in the "
            "output of `--json`, and `fusion resume` goes on with the run.",
            "## The tree",
            fenced(tree),
            "An error's message says what is wrong, where, what was expected and what to do. `RunFailed` carries the "
            "result of everything that was finished. A run that fails ends with the exit code of its cause.",
            table(("error", "exit code", "HTTP status", "meaning"), rows),
        ]
    )


def errors(cls: type[FusionError], depth: int) -> Iterator[tuple[type[FusionError], int]]:
    yield cls, depth
    for below in cls.__subclasses__():
        if below.__module__ == FusionError.__module__:
            yield from errors(below, depth + 1)


def error_tree(cls: type[FusionError], depth: int) -> Iterator[str]:
    return (f"{'  ' * level}{one.__name__}" for one, level in errors(cls, depth))


def pipelines_page() -> str:
    schema = pipeline_schema()
    definitions = schema["$defs"]
    sections = {
        "Top level": schema,
        "inputs.NAME": long_form(definitions["InputSpec"]),
        "roles.NAME": long_form(definitions["RoleSpec"]),
        "budget": definitions["Limits"],
        "defaults": definitions["Defaults"],
    }
    parts = [
        "# Pipelines and templates",
        "## Keys of a pipeline file",
        "`fusion schema` prints the JSON Schema of these files for editors. [Stage kinds](kinds.md) lists the keys "
        "of each stage.",
    ]
    for title, part in sections.items():
        parts += [f"### {title}", table(KEY_HEAD, schema_rows(part, definitions))]
    parts += ["An input may be its description alone, a role one model's name.", "## Shipped pipelines"]
    parts += ["`fusion new NAME --from PIPELINE` copies one with its templates."]
    parts += [pipeline_section(path) for path in sorted((shipped_root() / "pipelines").glob("*.yaml"))]
    return "\n\n".join([*parts, "## Shipped templates", templates()])


def pipeline_section(path: Path) -> str:
    pipeline = Pipeline.load(path)
    inputs = (f"`{name}`{'' if spec.required else ' (optional)'}" for name, spec in pipeline.inputs.items())
    text = path.read_text().partition("\n")[2]
    return f"### {pipeline.name}\n\nInputs: {', '.join(inputs)}.\n\n{fenced(text, 'yaml')}"


def templates() -> str:
    root = shipped_root() / "prompts"
    users: dict[str, list[str]] = {}
    for kind in summary():
        for use in explain(kind).templates:
            users.setdefault(use.default, []).append(f"`{kind}`.`{use.key}`")
    names = sorted(path.relative_to(root).as_posix().removesuffix(".md.j2") for path in root.rglob("*.md.j2"))
    intro = "A `prompt` names a template, or is one. Your own folder `prompts/` beside the pipeline goes first."
    rows = ([code(name), ", ".join(users.get(name, ["by name or by `include`"]))] for name in names)
    return f"{intro}\n\n{table(('template', 'default of'), rows)}"


def benchmarks_page() -> str:
    if SCORER_RULES.keys() != set(SCORERS):
        raise SystemExit("docs/reference.py: SCORER_RULES and the registry of scorers differ")
    schema = suite_schema()
    definitions = schema["$defs"]
    sections = {
        "Top level": schema,
        "tasks.NAME": definitions["Source"],
        "scorer": long_form(definitions["Scoring"]),
        "arms.NAME": definitions["Arm"],
        "split": definitions["Splitting"],
        "prices.MODEL": definitions["Tariff"],
        "budget": definitions["Limits"],
    }
    rules = [[code(name), rule] for name, rule in SCORER_RULES.items()]
    rules += [
        ["an expression", "`gold|lower in answer|lower`, over `answer`, `data` and `gold`, is true"],
        ["`module:function`", "the function of answer and gold gives 1, or a number from 0 to 1"],
        ["`{by: judge, model: …}`", "a model of another family says so, in both orders, against the gold answer"],
    ]
    parts = ["# Benchmark suites", "## Scorers", table(("scorer", "an answer is right where"), rules)]
    parts += ["`path` and `pattern` tell `exact`, `number`, `code` and `math` which part of an answer counts."]
    parts += ["## Keys of a suite"]
    for title, part in sections.items():
        parts += [f"### {title}", table(KEY_HEAD, schema_rows(part, definitions))]
    return "\n\n".join(parts)


def python_page() -> str:
    parts = [
        "# Python names",
        "Every public name of `fusion`, `fusion.bench` and `fusion.stages`. All else may move.",
    ]
    for module in (fusion, fusion.bench, fusion.stages):
        parts.append(f"## {module.__name__}")
        rows = ([code(name), purpose(getattr(module, name))] for name in sorted(module.__all__))
        parts.append(table(("name", "purpose"), rows))
    parts += ["## Methods of Fusion", methods(fusion.Fusion)]
    return "\n\n".join(parts)


def purpose(public: Any) -> str:
    return first_sentence(public.__doc__) if inspect.isroutine(public) or inspect.isclass(public) else "Field type."


def methods(cls: type) -> str:
    of_all = {name: one for kind in reversed(cls.__mro__[:-1]) for name, one in vars(kind).items()}
    found = [(name, one) for name, one in of_all.items() if not name.startswith("_") and callable(one)]
    rows = ([code(f"{name}({', '.join(arguments(one))})"), first_sentence(one.__doc__)] for name, one in found)
    return table(("method", "purpose"), rows)


def arguments(function: Callable[..., Any]) -> list[str]:
    found = []
    for name, one in list(inspect.signature(function).parameters.items())[1:]:
        if one.kind is one.KEYWORD_ONLY and "*" not in found:
            found.append("*")
        found.append(f"**{name}" if one.kind is one.VAR_KEYWORD else name)
    return found


MAKERS: dict[str, Callable[[], str]] = {
    "kinds.md": kinds_page,
    "cli.md": cli_page,
    "settings.md": settings_page,
    "profiles.md": profiles_page,
    "events.md": events_page,
    "result.md": result_page,
    "errors.md": errors_page,
    "pipelines.md": pipelines_page,
    "benchmarks.md": benchmarks_page,
    "python.md": python_page,
}


def made() -> dict[str, str]:
    """Every page by its file name."""
    return {name: f"{NOTE}\n\n{make()}\n" for name, make in MAKERS.items()}


def differences(pages: Mapping[str, str]) -> Iterator[str]:
    for name, text in pages.items():
        path = PAGES / name
        old = path.read_text() if path.is_file() else ""
        yield from difflib.unified_diff(
            old.splitlines(), text.splitlines(), f"committed {name}", f"made {name}", lineterm=""
        )


def main(words: Sequence[str]) -> int:
    pages = made()
    if "--check" in words:
        found = list(differences(pages))
        sys.stdout.write("\n".join(found[:60]) + "\n" if found else "")
        sys.stdout.write("run `python docs/reference.py`\n" if found else "")
        return 1 if found else 0
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (PAGES / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
