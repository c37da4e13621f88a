"""The corpus of `tests/hostile`: every file gets exactly the answer that lies beside it, in `.said`.

`pipelines` are validated; `templates` are pipelines that are run; each file of `replies` is what a model says to the
pipeline its folder is named after; `inputs` holds command lines, a word on each line. `python -m tests.test_hostile`
writes the answers anew: read every change of them as a user would.
"""

import contextlib
import functools
import io
import re
import shlex
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest

from fusion import Fusion, ScriptedModel
from fusion.cli.app import run_command

CORPUS = Path(__file__).parent / "hostile"
MODEL = "scripted/hostile"
_TIME = re.compile(r"( in)? (\d+ min )?\d+(\.\d+)? s\b")
_RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_RECEIPT = "\nstage "


def cases() -> list[Path]:
    """The files that something is said of."""
    kinds = ("pipelines/*.yaml", "templates/*.yaml", "replies/*/*.reply", "inputs/*.args")
    return sorted(path for kind in kinds for path in CORPUS.glob(kind))


def words(case: Path) -> list[str]:
    """The command line that the file is given by."""
    match case.relative_to(CORPUS).parts[0]:
        case "pipelines":
            return ["validate", case.name]
        case "templates":
            return ["run", case.name, "-m", MODEL, "-i", "task=what is wanted"]
        case "replies":
            return ["run", f"../{case.parent.name}.yaml", "-m", MODEL]
        case _:
            return [word for line in case.read_text().splitlines() for word in shlex.split(line)]


def answered(case: Path) -> str:
    """Exit code, answer, and all that is said but the receipt; times and ids of runs differ, and are left out."""
    reply = case.read_text() if case.suffix == ".reply" else "fine"
    model = ScriptedModel(reply, name=MODEL, respect_limit=False)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(case.parent),
        patch.dict("os.environ", COLUMNS="100", FUSION_STORE=f"{folder}/runs.db"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch("fusion.cli.session.Fusion", functools.partial(Fusion, models={MODEL: model})),
    ):
        code = run_command(words(case))
    answer, said = (stream.buffer.getvalue().decode().replace(str(case.parent), "…") for stream in (out, err))  # type: ignore[attr-defined]
    said = _RUN.sub("RUN", _TIME.sub("", said.partition(_RECEIPT)[0]))
    return f"exit code {code}\n--- answer\n{_RUN.sub('RUN', answer)}\n--- said\n{said}"


def beside(case: Path) -> Path:
    return case.with_suffix(".said")


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.relative_to(CORPUS).as_posix())
def test_what_is_said_of_it(case: Path) -> None:
    assert answered(case) == beside(case).read_text()


def test_nothing_lies_there_for_nobody() -> None:
    assert {beside(case) for case in cases()} == set(CORPUS.rglob("*.said"))


if __name__ == "__main__":
    for case in cases():
        beside(case).write_text(answered(case))
