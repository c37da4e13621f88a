"""The reference is that of the code."""

import re
import subprocess
import sys
import tomllib

from fusion.cli.exits import EPILOG
from fusion.models.profiles import load_profiles
from fusion.stages.registry import GROUP, kinds
from tests.docs.pages import ROOT, Page


def test_the_committed_pages_are_those_that_the_code_makes() -> None:
    words = [sys.executable, "docs/reference.py", "--check"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_kinds_are_those_that_there_are() -> None:
    fields = {kind: [field.name for field in cls.outputs] for kind, cls in kinds().items()}
    one_by_one = {kind: [field.name for field in cls.item_outputs] for kind, cls in kinds().items()}
    assert one_by_one["cascade"] == ["items"]
    rows = Page("docs/pages/reference/kinds.md").table("kind")
    found = {re.sub(r"\[(\w+)\].*", r"\1", kind): re.sub(r" \(items[^)]*\)", "", named) for kind, _, named in rows}
    expected = {kind: [*of, *one_by_one.get(kind, [])] for kind, of in fields.items()}
    assert {kind: named.split(", ") for kind, named in found.items()} == expected


def test_the_profiles_are_those_that_there_are_and_in_their_order() -> None:
    rows = []
    for name, one in load_profiles().items():
        variables = ", ".join(one.keys) or (f"those of {one.providers} others" if one.providers else "none")
        rows.append([name, variables, "when asked for" if one.explicit else "when set" if one.keys else "else"])
    assert list(Page("docs/pages/reference/profiles.md").table("profile")) == rows


def test_the_exit_codes_are_those_of_the_help() -> None:
    in_help = set(re.findall(r"^  (\d+) ", EPILOG, re.MULTILINE))
    assert {code for code, _ in Page("docs/pages/reference/errors.md").table("code")} == in_help


def test_the_entry_point_of_plug_ins_is_the_registrys() -> None:
    page = Page("docs/pages/how-to/plug-ins.md")
    (block,) = (block for block in page.blocks if block.language == "toml")
    assert list(tomllib.loads(block.text)["project"]["entry-points"]) == [GROUP]
