"""Bundle: the page of one run as a single HTML file, with its modules, style and data inside."""

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic_core import to_json

from fusion.server.page.run import RunView

STATIC: Final = Path(__file__).parent / "static"
_ENTRY: Final = "app.js"
_IMPORT: Final = re.compile(r"^import\s*(?:\{([^}]*)\}|(\w+))\s*from\s*\"([^\"]+)\";?", re.MULTILINE)
_NAMED: Final = re.compile(r"^export ((?:async )?function|const|class) (\w+)", re.MULTILINE)
_LISTED: Final = re.compile(r"\bexport\{([^}]*)\};?")
_DEFAULT: Final = "export default function("
_EVERY: Final = 1_000_000


def page_of(view: RunView) -> str:
    """Return the page of a run, which reads nothing but itself. It holds the messages and replies of all calls."""
    data = _escaped(to_json(_data(view)).decode())
    style = (STATIC / "page.css").read_text("utf-8")
    script = _script(_ENTRY)
    policy = f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; base-uri 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Fusion</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<script type="application/json" id="embedded">{data}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _data(view: RunView) -> dict[str, Any]:
    """Return a run, its items by stage, and its calls by number."""
    whole = view.whole()
    return {
        "run": whole,
        "items": {stage: view.items(stage, limit=_EVERY)["items"] for stage in whole["state"]["stages"]},
        "calls": dict(view.every_call()),
    }


def _escaped(data: str) -> str:
    """Return JSON without the signs that end a script element or a line of one."""
    for sign in "<>&\u2028\u2029":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return data


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _script(entry: str) -> str:
    """Return a module and all that it imports as one script."""
    modules: dict[str, str] = {}
    _collect((STATIC / entry).resolve(), modules)
    return "\n".join(['"use strict";', "const modules = {};", *modules.values()]).replace("</", "<\\/")


def _collect(path: Path, modules: dict[str, str]) -> None:
    """Add a module to `modules`, after those that it imports."""
    name = _name(path)
    if name in modules:
        return
    text = path.read_text("utf-8")
    for _, _, given in _IMPORT.findall(text):
        _collect((path.parent / given).resolve(), modules)
    modules[name] = f"modules[{name!r}] = (() => {{\n{_body(path, text)}\n}})();"


def _body(path: Path, text: str) -> str:
    """Return the statements of a module as those of a function that returns what it exports."""
    exported = [f"{name}: {name}" for _, name in _NAMED.findall(text)]
    for names in _LISTED.findall(text):
        exported += [f"{outer}: {inner}" for inner, outer in _renamed(names)]
    if _DEFAULT in text:
        exported.append("default: exportedDefault")
        text = text.replace(_DEFAULT, "const exportedDefault = function(")
    text = _LISTED.sub("", _NAMED.sub(r"\1 \2", text))
    text = _IMPORT.sub(lambda found: _read(path, *found.groups()), text)
    return f"{text}\nreturn {{ {', '.join(exported)} }};"


def _read(path: Path, names: str | None, default: str | None, given: str) -> str:
    """Return the statement that stands for an import."""
    module = f"modules[{_name((path.parent / given).resolve())!r}]"
    if names is None:
        return f"const {default} = {module}.default;"
    return f"const {{ {', '.join(f'{outer}: {inner}' for outer, inner in _renamed(names))} }} = {module};"


def _renamed(names: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of `a as b, c`."""
    for one in filter(None, (part.strip() for part in names.split(","))):
        first, _, second = one.partition(" as ")
        yield first, second or first


def _name(path: Path) -> str:
    return path.relative_to(STATIC.resolve()).as_posix()
