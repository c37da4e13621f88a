"""Base of options: a class of them for each command, and those that several commands share."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, dataclass_transform, get_args

from typer import Argument, Context, Option

from fusion.cli.completion import budget_names, pipeline_names, profile_names, run_ids

if TYPE_CHECKING:
    pass


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Options:
    """The options of a command: a dataclass for the type checker, without the 10 ms that nine of them cost."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """Return the annotations of all fields by name, those of base classes first."""
        return {name: form for kind in reversed(cls.__mro__) for name, form in inspect.get_annotations(kind).items()}

    def flags(self) -> dict[str, str]:
        """Return the flags of the options that are set, by field: `{"output": "-o"}`."""
        flags = {name: get_args(form)[1].default for name, form in self.fields().items()}
        return {
            name: flag
            for name, flag in flags.items()
            if isinstance(flag, str) and getattr(self, name) != getattr(type(self), name)
        }


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one parameter for each field of its `options`, and pass it the filled class."""
    parameters = dict(inspect.signature(command).parameters)
    kind = parameters.pop("options").annotation
    declared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=form,
            default=getattr(kind, name, inspect.Parameter.empty),
        )
        for name, form in kind.fields().items()
    ]

    @wraps(command)
    def bound(**values: Any) -> None:
        own = {name: values.pop(name) for name in parameters}
        command(**own, options=kind(**values))

    bound.__signature__ = inspect.Signature([*parameters.values(), *declared])  # type: ignore[attr-defined]
    return bound


def _debug(ctx: Context, debug: bool) -> bool:
    if debug:
        ctx.obj.debug = True
    return debug


# Arguments and options that several commands share.

PipelineGiven = Annotated[
    str, Argument(metavar="PIPELINE", help="Name or file of a pipeline.", autocompletion=pipeline_names)
]
Prompt = Annotated[
    str | None,
    Argument(metavar="PROMPT", help="The task: fills the first required input; - reads standard input."),
]
Profile = Annotated[
    str | None, Option("--profile", metavar="NAME", help="Set of models.", autocompletion=profile_names)
]
Budget = Annotated[
    str | None,
    Option("--budget", metavar="LIMITS", help="Limits: 0.50 (dollars), or usd=…,tokens=…,calls=…,seconds=…."),
]
RunGiven = Annotated[
    str, Argument(metavar="RUN", help="Id of a run, its first characters, or: latest.", autocompletion=run_ids)
]
RunOrMap = Annotated[
    str,
    Argument(metavar="RUN", help="Id of a run or map, its first characters, or: latest.", autocompletion=run_ids),
]
StoreFile = Annotated[
    str | None, Option("--store", metavar="PLACE", help="File of the run store, or a postgresql:// URL.")
]
AsJson = Annotated[bool, Option("--json", help="Print JSON.")]
Concurrency = Annotated[int | None, Option("--concurrency", metavar="N", help="Answers at once; 16.")]
Folder = Annotated[str | None, Option("-o", "--output", metavar="FOLDER", help="Folder for answers and report.")]
Quiet = Annotated[bool, Option("-q", "--quiet", help="Print only errors to standard error.")]
Verbose = Annotated[bool, Option("-v", "--verbose", help="Show every call.")]
Debug = Annotated[bool, Option("--debug", help="Show tracebacks.", callback=_debug)]


Within = Annotated[
    str | None,
    Option(
        "--within",
        metavar="NAME",
        help="Budget of your settings to stay within, beside its own: a [budgets.NAME].",
        autocompletion=budget_names,
    ),
]


Batch = Annotated[
    bool,
    Option("--batch", help="Send calls in batches of their providers: about half the price, within a day."),
]


PromptColumn = Annotated[
    str | None, Option("--prompt", metavar="COLUMN", help="Column of prompts, or template over columns.")
]
GoldColumn = Annotated[str | None, Option("--gold", metavar="COLUMN", help="Column of gold answers.")]
NoLearn = Annotated[bool, Option("--no-learn", help="Keep no figures of the models; see `fusion models learned`.")]


Config = Annotated[str | None, Option("--config", metavar="FILE", help="Your settings: a fusion.toml.")]
