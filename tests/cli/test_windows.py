"""Windows is refused in one line, before anything is imported that it lacks."""

import subprocess
import sys

import pytest

ON_WINDOWS = """
import sys
sys.modules.update(dict.fromkeys(["fcntl", "pwd", "resource", "termios"]))  # None: an import of it fails
sys.platform = "win32"
"""


def on_windows(code: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", ON_WINDOWS + code], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", [[], ["--help"], ["run", "single", "hello"]])
def test_the_command_names_wsl_in_place_of_a_traceback(words: list[str]) -> None:
    code, out, err = on_windows(f"sys.argv[1:] = {words}\nfrom fusion.__main__ import main\nmain()")
    assert (code, out) == (2, "")
    assert err == "error: Fusion runs on Linux and macOS; on Windows, install and run it within WSL (wsl --install)\n"


def test_the_package_names_wsl_when_it_is_used() -> None:
    code, out, err = on_windows("import fusion\nprint(fusion.__version__)\nfrom fusion import Fusion")
    assert (code, out.count("\n")) == (1, 1)
    assert err.splitlines()[-1].startswith("ImportError: Fusion runs on Linux and macOS; on Windows, install")
