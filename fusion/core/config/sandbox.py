"""The `[sandbox]` table of a fusion.toml: the way in which commands run, and the most that they may take."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from fusion.core.config.fields import Variable
from fusion.core.types import ProcessLimits
from fusion.core.validation import Authored

PLACEHOLDERS: Final = ("folder", "name", "seconds", "memory", "disk", "processes")
"""Names in braces that `runner` and `stop` may hold."""
_PLACEHOLDER: Final = re.compile(r"\{([a-z]+)\}")


def _part(given: str) -> str:
    if "\0" in given:
        raise ValueError("an argument cannot hold a NUL character")
    for name in _PLACEHOLDER.findall(given):
        if name not in PLACEHOLDERS:
            raise ValueError(f"unknown placeholder {{{name}}}; use one of: {', '.join(PLACEHOLDERS)}")
    return given


Part = Annotated[str, AfterValidator(_part)]
"""An argument of a command, with placeholders."""


class SandboxTable(Authored):
    """Sandbox of commands that a model wrote: bubblewrap or the user's own runner, and the most they may take."""

    runner: tuple[Part, ...] = Field(
        default=(),
        description="Command before each command, in place of bubblewrap: `docker run --rm -i … IMAGE`, as a list.",
    )
    stop: tuple[Part, ...] = Field(
        default=(), description="Command after a stopped one of the runner, such as `docker kill {name}`, as a list."
    )
    env: tuple[Variable, ...] = Field(
        default=(), description="Variables that the runner itself gets, besides PATH, HOME and those of docker."
    )
    readable: tuple[Path, ...] = Field(
        default=(), description="Folders beside /usr that commands may read, such as a virtual environment."
    )
    python: Literal["process", "monty"] = Field(
        default="process",
        description="Python code without files: in a process, or in pydantic-monty where that knows all of the code.",
    )
    concurrency: int | None = Field(default=None, ge=1, description="Commands at once; by default one for each core.")
    seconds: float | None = Field(
        default=None,
        gt=0,
        le=600,
        description="Most seconds of a command by the clock; by default as its stage says.",
    )
    memory: int | None = Field(default=None, gt=0, description="Most megabytes of memory of a command.")
    disk: int | None = Field(default=None, gt=0, description="Most megabytes of files of a command.")
    processes: int | None = Field(default=None, gt=0, description="Most processes and threads of a command.")
    output: int | None = Field(default=None, gt=0, description="Most bytes of output of a command.")

    @field_validator("readable")
    @classmethod
    def _are_absolute(cls, given: tuple[Path, ...]) -> tuple[Path, ...]:
        for path in given:
            if not path.is_absolute() or path == Path("/"):
                raise ValueError(f"expected the full path of a folder other than /, got {str(path)!r}")
        return given

    @model_validator(mode="after")
    def _fits_a_runner(self) -> Self:
        for name in ("stop", "env"):
            if getattr(self, name) and not self.runner:
                raise ValueError(f"`{name}` is for a runner, and `runner` is not set")
        if self.runner and self.readable:
            raise ValueError("`readable` is for bubblewrap; let the runner itself give access to folders")
        return self

    def limits(self, asked: ProcessLimits | None) -> ProcessLimits:
        """Return the limits of a command: those that its stage gives, up to the most of this table."""
        asked = asked or ProcessLimits()
        found = {}
        for name in ProcessLimits.model_fields:
            most, own = getattr(self, name), getattr(asked, name)
            given = name in asked.model_fields_set
            found[name] = own if most is None else min(own, most) if given else most
        return ProcessLimits(**found)
