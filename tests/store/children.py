"""Processes that work on a store, to be stopped in the middle."""

import subprocess
import sys


def process(script: str, *words: object) -> "subprocess.Popen[str]":
    """Begin a script with these words; it has `open_store` and the rows of the conformance suite at hand."""
    head = "import sys, os, time\nfrom fusion.store.open import open_store\n"
    head += "from tests.store.conformance import *\nfrom tests.store.conformance import kept\n"
    given = [sys.executable, "-c", f"{head}{script}", *map(str, words)]
    return subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(running: "subprocess.Popen[str]") -> str:
    """Return the next line that it prints."""
    assert running.stdout is not None
    return running.stdout.readline().strip()
