"""Learned figures of a run: read once, pinned by its journal, and shown to expressions by label and role."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any, Final

from fusion.core.config import Settings
from fusion.engine.run_spec import RunSpec
from fusion.models.catalog.learned import UNKNOWN, Figures, Learned, learned_file, read_learned
from fusion.store.base import NullJournal

_PLACE: Final = ("", None, "learned")


class PinnedFigures:
    """The learned figures of the models of a run: those of its first session, however the file changes."""

    def __init__(self, spec: RunSpec, journal: NullJournal | None = None) -> None:
        self._spec = spec
        self._journal = journal or NullJournal()

    @cached_property
    def figures(self) -> Learned:
        """The figures of the models of all roles. Raises UsageError for a damaged file."""
        kept = self._journal.kept(*_PLACE)
        if kept is not None:
            return Learned.model_validate(kept)
        return Learned() if self._spec.learned is None else self._spec.learned().of(self._spec.roles.models)

    def pin(self) -> None:
        """Read the figures and put them into the journal. Raises UsageError for a damaged file."""
        self._journal.keep(*_PLACE, self.figures.model_dump(mode="json"))

    def of_role(self, label: str, role: str, spec: RunSpec) -> Figures | None:
        """Return the figures of the first model of a role, in a pipeline of the run."""
        return self.figures.figures(label, spec.roles[role].models[0].id)


class LearnedByRole(Mapping[str, Mapping[str, Mapping[str, Any]]]):
    """Learned figures as expressions read them: `learned.LABEL.ROLE.accuracy`; every label is one."""

    def __init__(self, pinned: PinnedFigures, spec: RunSpec) -> None:
        self._pinned = pinned
        self._spec = spec

    def __getitem__(self, label: str) -> Mapping[str, Mapping[str, Any]]:
        found = {role: self._pinned.of_role(label, role, self._spec) for role in self._spec.roles}
        return {role: UNKNOWN if one is None else one.values for role, one in found.items()}

    def __contains__(self, label: object) -> bool:
        return isinstance(label, str)

    def __iter__(self) -> Iterator[str]:
        return iter(self._pinned.figures.labels)

    def __len__(self) -> int:
        return len(self._pinned.figures.labels)


def figures_of(settings: Settings) -> Callable[[], Learned]:
    """Return a function that reads the learned figures of this machine, once."""
    return cache(lambda: read_learned(learned_file(settings)))


def learned_notes(pinned: PinnedFigures, spec: RunSpec) -> Iterator[str]:
    """Yield a note for the figures of each label and role that an expression of a pipeline names."""
    for label, role in spec.loaded.dataflow.learned_reads:
        if role not in spec.roles:
            continue
        found, model = pinned.of_role(label, role, spec), spec.roles[role].models[0].id
        if found is None:
            yield (
                f"no learned figures of {label!r} for {role} ({model}): comparisons with them are false; "
                f"`fusion bench ITEMS -m {model}` measures them"
            )
        else:
            yield f"learned figures of {label!r} for {role} ({model}): {found.words}"
