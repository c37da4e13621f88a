"""The README and the pages of the docs: their blocks, their prose, and a desk at which a page is worked through."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from fusion import Pipeline

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/compound-fusion/fusion"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block, and the text of the next one if that shows an output."""

    language: str
    text: str
    output: str | None


@dataclass(frozen=True)
class Page:
    """A page by its path in the project."""

    name: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        found = [(match[1], match[2]) for match in _FENCE.finditer(self.text)]
        behind = [*found[1:], ("", "")]
        return [
            Block(language, text, after[1] if after[0] == "text" and language != "text" else None)
            for (language, text), after in zip(found, behind, strict=False)
        ]

    @cached_property
    def prose(self) -> str:
        """The text without its blocks and comments."""
        return re.sub(r"<!--.*?-->", "", _FENCE.sub("", self.text), flags=re.DOTALL)

    @cached_property
    def inline(self) -> list[str]:
        """All that is in code marks in the prose."""
        return sorted(set(re.findall(r"`([^`\n]+)`", self.prose)))

    @cached_property
    def links(self) -> list[str]:
        return re.findall(r"\]\(([^)\s]+)\)", self.prose)

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors of its headings, as the site makes them."""
        headings = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", one.lower()).strip()) for one in headings}

    def table(self, heading: str) -> Iterator[list[str]]:
        """The rows of the table whose first column has this heading, without their code marks."""
        found = re.search(rf"^\| {heading} \|.*\n\|[- |:]+\|\n((?:\|.*\n?)+)", self.text, re.MULTILINE)
        assert found is not None
        for line in found[1].splitlines():
            yield [cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")]


README = Page("README.md")
_FOLDER = ROOT / "docs" / "pages"
DOCS = [Page(path.relative_to(ROOT).as_posix()) for path in sorted(_FOLDER.rglob("*.md"))]
WRITTEN = [README, Page(".github/CONTRIBUTING.md"), *(page for page in DOCS if "/reference/" not in page.name)]
"""The pages that people write."""
MADE = [page for page in DOCS if "/reference/" in page.name]
"""The pages that are made of the code."""
QUICKSTART = Page("docs/pages/quickstart.md")


@dataclass(frozen=True)
class Desk:
    """A folder in which a page is worked through; `fusion` and `make` are commands there."""

    folder: Path

    @classmethod
    def scripted(cls, folder: Path, fusion: Sequence[str]) -> "Desk":
        """`make` says what it would do; `fusion` is this command."""
        desk = cls(folder)
        make = shutil.which("make")
        assert make is not None
        desk.command("make", make, "--always-make", "--dry-run", "--directory", str(ROOT))
        desk.command("python", sys.executable)
        for name in ("fusion", "fusion-python"):
            desk.command(name, *fusion)
        return desk

    def work_through(self, block: Block) -> str:
        """Do what a block says; gives what it prints."""
        match block.language:
            case "sh":
                return self._run("bash", "-euo", "pipefail", "-c", block.text)
            case "python":
                (self.folder / "block.py").write_text(block.text)
                return self._run("fusion-python", "block.py")
            case "yaml":
                return self._run("fusion", "validate", self.write(block.text))
            case "toml":
                return self._settings(block.text)
        raise AssertionError(f"a block in {block.language!r}, which no test checks")

    def write(self, text: str) -> str:
        """Write a pipeline into the file that has its name."""
        path = self.folder / f"{Pipeline.from_yaml(text).name}.yaml"
        path.write_text(text)
        return path.name

    def lay_out(self, page: Page) -> None:
        """Write the files that a page has its reader write, and run nothing of Fusion."""
        for block in page.blocks:
            if block.language == "yaml":
                self.write(block.text)
            elif block.text.startswith("cat > "):
                self.work_through(block)

    def command(self, name: str, *words: str) -> None:
        """Make a command of this name, which is really another one."""
        (self.folder / "bin").mkdir(exist_ok=True)
        script = self.folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        script.chmod(0o755)

    def _settings(self, text: str) -> str:
        """Take a fusion.toml into use in a folder of its own; another TOML file has only to be one."""
        if "project" in tomllib.loads(text):
            return ""
        (self.folder / "settings").mkdir(exist_ok=True)
        (self.folder / "settings" / "fusion.toml").write_text(text)
        if "endpoints" not in tomllib.loads(text):
            return self._run("bash", "-euo", "pipefail", "-c", "cd settings && fusion models --config fusion.toml")
        ((endpoint, table),) = tomllib.loads(text)["endpoints"].items()
        prices = "  *".join(f"{price:.2f}" if price else "free" for price in table["price"].values())
        row = f"(endpoint)  *{endpoint}  *{table['key_env']}: not set  *{prices}"
        return self._run(
            "bash", "-euo", "pipefail", "-c", f"cd settings && fusion models --config fusion.toml | grep '{row}'"
        )

    def _run(self, *words: str) -> str:
        env = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(self.folder),
            "FUSION_STORE": str(self.folder / "runs.db"),
        }
        done = subprocess.run(words, cwd=self.folder, env=env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout
