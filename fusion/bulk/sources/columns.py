"""Columns: which column of INPUTS goes to which input of the pipeline."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from fusion.bulk.sources.base import RowSource, SourceRow
from fusion.core.errors import InputError, close_names
from fusion.pipeline.spec import Pipeline

_TEXT = "text"


def reads_media(pipeline: Pipeline, constants: Collection[str] = ()) -> bool:
    """Return True if files go to an input of pictures or documents: a required one that is not among `constants`."""
    return any(spec.required and spec.is_file for name, spec in pipeline.inputs.items() if name not in constants)


@dataclass(frozen=True)
class Columns:
    """The columns that fill a pipeline's inputs. `notes` say what was chosen without being asked for.

    `taken` maps inputs to columns, and `constants` maps inputs to a value that is the same in all rows.
    """

    taken: Mapping[str, str]
    constants: Mapping[str, Any]
    required: frozenset[str]
    notes: tuple[str, ...] = ()
    _late: "_Matching | None" = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        pipeline: Pipeline,
        source: RowSource,
        *,
        given: Mapping[str, str] | None = None,
        constants: Mapping[str, Any] | None = None,
    ) -> Self:
        """Match the columns of a source to the inputs of a pipeline.

        `given` maps inputs to columns; the other columns go to the inputs of their names. A single required input
        that is left takes the column `text` or the only column, if no column has the name of an input; from files it
        takes the file. Raises InputError for an unknown input or column, and for a required input without a column.
        """
        given, constants = given or {}, constants or {}
        _check_names(pipeline, given, constants)
        required = frozenset(name for name, spec in pipeline.inputs.items() if spec.required)
        matching = _Matching(pipeline, source, given, constants, required)
        if source.columns is None:
            return cls({}, constants, required, _late=matching)
        taken, notes = matching.matched(source.columns)
        return cls(taken, constants, required, notes)

    def inputs(self, row: SourceRow) -> dict[str, Any]:
        """Return the inputs of a row. Raises InputError, for this row, if a required one has no value.

        An empty value counts as missing, so that an input with a default takes it.
        """
        if row.problem is not None:
            raise InputError(f"{row.where}: {row.problem}")
        inputs = dict(self.constants)
        for name, column in self._taken(row).items():
            value = row.values.get(column)
            if value is not None and value != "":
                inputs[name] = value
            elif name in self.required:
                raise InputError(f"{row.where}: no value in the column {column!r} for the input {name!r}")
        return inputs

    def _taken(self, row: SourceRow) -> Mapping[str, str]:
        if self._late is None:
            return self.taken
        try:
            return self._late.matched(tuple(row.values))[0]
        except InputError as error:
            raise InputError(f"{row.where}: {error}") from error


@dataclass(frozen=True)
class _Matching:
    """Matches the columns of a source, once they are known, to the inputs of a pipeline."""

    pipeline: Pipeline
    source: RowSource
    given: Mapping[str, str]
    constants: Mapping[str, Any]
    required: frozenset[str]

    def matched(self, columns: Collection[str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return the columns by input, and notes. Raises InputError."""
        for name, column in self.given.items():
            if column not in columns and not (self.source.columns_vary and name not in self.required):
                raise InputError(
                    f"input {name!r}: {self.source.name!r} has no column {column!r}{close_names(column, columns)}"
                )
        free = [name for name in self.pipeline.inputs if name not in self.given and name not in self.constants]
        named = {name: name for name in free if name in columns or (self.source.columns_vary and columns)}
        open_ones = [name for name in free if name in self.required and name not in columns]
        taken = {**self.given, **named}
        if not open_ones:
            return taken, ()
        only = self._only(columns) if len(open_ones) == 1 else None
        if only is None:
            raise InputError(self._missing(open_ones[0], columns))
        return {**taken, open_ones[0]: only}, (f"the column {only!r} goes to the input {open_ones[0]!r}",)

    def _only(self, columns: Collection[str]) -> str | None:
        """Return the column for the only required input that is left, if the source tells it."""
        free = [column for column in columns if column not in self.given.values()]
        if self.source.is_files:
            return next((column for column in free if column != "path"), None)
        if any(column in self.pipeline.inputs for column in free):
            return None
        if _TEXT in free:
            return _TEXT
        return free[0] if len(columns) == 1 and free else None

    def _missing(self, name: str, columns: Collection[str]) -> str:
        about = self.pipeline.inputs[name].description
        words = f"{name!r} ({about})" if about else repr(name)
        return (
            f"{self.source.name!r} has no column for the input {words} of {self.pipeline.name!r}"
            f"{close_names(name, columns)}. Give `--input {name}=COLUMN`, or `--set {name}=VALUE` for one value in "
            "all rows"
        )


def _check_names(pipeline: Pipeline, given: Mapping[str, str], constants: Mapping[str, Any]) -> None:
    for option, names in (("--input", given), ("--set", constants)):
        for name in names:
            if name not in pipeline.inputs:
                raise InputError(
                    f"{option} {name}=…: {pipeline.name!r} has no input {name!r}{close_names(name, pipeline.inputs)}"
                )
    for name in constants:
        if name in given:
            raise InputError(f"the input {name!r} is given twice, by `--input` and by `--set`")
