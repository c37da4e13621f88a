"""Spec of a check: free conditions, a run in the sandbox, a judge."""

from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, model_validator

from fusion.core.types import ProcessLimits
from fusion.core.validation import Authored
from fusion.stages.base import OF_CHECKS, ExpressionUse, PromptUse
from fusion.stages.fields import Texts, short_form
from fusion.stages.simulation import Chance
from fusion.stages.text.checks import Checks
from fusion.stages.text.code import Block

OF_JUDGE: Final = frozenset({"value", "task", "criteria", "confident"})
"""Variables of a judge's template."""
_OF_FILES: Final = frozenset({"value", "code"})
_CONDITIONS: Final = (
    "`python`, `command`, `schema`, `expression`, `matches`, `contains`, `min_length`, `max_length`, `numbers_from`, "
    "`sources_from` or `judge`"
)


class Judging(Authored):
    """A judge of an answer. Short form: its role alone."""

    role: str = Field(description="The role that judges.")
    criteria: Texts = Field(default=(), description="Criteria for the answer, in words; one text or a list.")
    prompt: str = Field(default="verify/judge", description="The template that asks for the verdict.")
    confidence: float | None = Field(
        default=None, ge=0, le=1, description="Confidence that the judge must state for an answer to pass."
    )


AnyJudging = Annotated[Judging, BeforeValidator(short_form("role"), json_schema_input_type=str | Judging)]


class Check(Checks):
    """A check of an answer: all conditions that are given must hold, the free ones first, the judge's last.

    `python` are tests. They run in the sandbox behind the code of the answer, in one namespace; then each function
    `test…` without parameters and each TestCase that they define. A test that fails raises. Tests read the inputs
    and the source of an item, and nothing that a model wrote.

    `command` is a program in the sandbox, beside its `files`; the exit code 0 passes. Templates of `files` and
    `stdin` read `value`, the answer, and its `code`. Without both, standard input is the code.
    """

    python: str | None = Field(default=None, description="Python tests of the code: a template of the inputs.")
    command: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="A command in the sandbox, as a list of its arguments."
    )
    files: dict[str, str] = Field(default={}, description="Files beside the code or command: a template for each.")
    stdin: str | None = Field(default=None, description="Standard input of the code or command: a template.")
    extract: Block = Field(
        default="longest",
        description="Code of an answer: its longest or last code block, or the whole answer.",
    )
    limits: ProcessLimits = Field(default=ProcessLimits(), description="Limits of a run in the sandbox.")
    judge: AnyJudging | None = Field(default=None, description="A judge of the answer: a role, or more about it.")

    @model_validator(mode="after")
    def _says_something(self) -> "Check":
        if self.python is not None and self.command is not None:
            raise ValueError("`python` and `command` both run the code; give one of them")
        if not (self.runs or self.is_free or self.judge is not None):
            raise ValueError(f"no condition for an answer; give {_CONDITIONS}")
        for key in ("files", "stdin", "extract", "limits"):
            if key in self.model_fields_set and not self.runs:
                raise ValueError(f"`{key}` has an effect with `python` or `command` only")
        if self.python is not None and {"solution.py", "tests.py", "harness.py"} & self.files.keys():
            raise ValueError("solution.py, tests.py and harness.py hold the code and its tests; rename the file")
        return self

    @property
    def runs(self) -> bool:
        """True if the check runs something in the sandbox."""
        return self.python is not None or self.command is not None

    @property
    def is_free(self) -> bool:
        """True if the check has conditions that cost nothing."""
        return bool(self.model_fields_set & Checks.model_fields.keys())

    def prompts(self, key: str) -> Iterator[PromptUse]:
        """Yield the templates of the check under `key`."""
        if self.python is not None:
            yield PromptUse(f"{key}.python", self.python, for_model=False, of_inputs=True)
        for name, template in self.files.items():
            yield PromptUse(f"{key}.files.{name}", template, _OF_FILES, for_model=False)
        if self.stdin is not None:
            yield PromptUse(f"{key}.stdin", self.stdin, _OF_FILES, for_model=False)
        if self.judge is not None:
            yield PromptUse(f"{key}.judge.prompt", self.judge.prompt, OF_JUDGE)

    def uses(self, key: str) -> Iterator[ExpressionUse]:
        """Yield the expressions of the check under `key`."""
        for name, source in self.expressions(key):
            yield ExpressionUse(name, source, OF_CHECKS)

    def roles(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield (key, role) for the judge of the check under `key`, if it has one."""
        if self.judge is not None:
            yield f"{key}.judge.role", self.judge.role

    def calls(self) -> int:
        """Return the most calls of one verdict."""
        return 0 if self.judge is None else 2

    def supposed(self, chance: Chance) -> "Check":
        """Return the check as a quote simulates it: by its judge alone, else it passes in 6 of 10 cases."""
        if self.judge is not None:
            return Check.model_construct(judge=self.judge)
        return NEVER if chance.happens(0.4) else PASSES


PASSES: Final = Check(min_length=0)
"""A check that every answer passes."""
NEVER: Final = Check(contains=("\0",))
"""A check that no answer passes."""
