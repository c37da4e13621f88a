"""Over: a suite of files of items, and a cascade of some models to search, made from options."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from fusion.bench.suite import Document, Scorings
from fusion.core.errors import UsageError, close_names
from fusion.core.types import Limits
from fusion.core.validation import Authored
from fusion.core.yaml import Positions
from fusion.models.providers.replay import PREFIX, recorded_models, recordings

FEWEST: Final = 2
MOST: Final = 24
_FILE: Final = "ways.yaml"
_ARM: Final = "ways"


class Over(Authored):
    """Models to choose a cascade from, and the reading of the items: for `fusion.bench.tune`.

    A model is an id or a role; `replay:PLACE` means all models of a recording. `routes` gives a pattern for each task
    set but one: items whose prompts match it have a way of their own. Task sets are named by their files.
    """

    models: tuple[str, ...] = Field(default=(), description="The models; by default all of a recording.")
    scorer: Scorings = Field(description="The scorer of all answers, or one for each task set.")
    prompt: str | None = Field(default=None, description="The column of prompts, or a template over columns.")
    gold: str | None = Field(default=None, description="The column of gold answers.")
    sample: int | None = Field(default=None, ge=1, description="At most this many items of each set, drawn by hash.")
    agree: int = Field(default=2, ge=2, le=4, description="Answers that must be equal.")
    max_tiers: int = Field(default=3, ge=1, le=3, description="1: single models; 2: and pairs; 3: and late voters.")
    last: tuple[str, ...] = Field(default=(), description="The models that may answer if the others differ.")
    routes: dict[str, str] = Field(default={}, description="A regular expression for a task set, in its prompts.")
    max_tokens: int = Field(default=5000, ge=1, description="Output limit of an answer, thinking included.")
    seed: int = Field(default=0, ge=0, description="The seed of order, folds and resampling.")

    def suite(self, files: Sequence[Path | str], folder: Path, budget: Limits | None) -> Document:
        """Write the pipeline to a folder, and return the suite.

        Raises UsageError for models or task sets that do not fit.
        """
        given = [str(file) for file in files]
        sets = task_sets(given)
        models, last = self._models(given), _named(self.last, _places(given, self.models))
        search = {
            "models": models,
            "agree": self.agree,
            "max_tiers": self.max_tiers,
            **({"else": last} if last else {}),
        }
        cascade = {"kind": "cascade", "prompt": "generate/pass-through", "tiers": {"search": search}}
        pipeline = {
            "name": f"{next(iter(sets))}-{_ARM}",
            "inputs": {"question": "A question with one right answer."},
            "defaults": {"max_tokens": self.max_tokens},
            "stages": {"answer": self._routed(sets, cascade)},
            "output": "answer",
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FILE).write_text(json.dumps(pipeline, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return Document(", ".join(given), self._data(sets, folder / _FILE, budget), Positions())

    def _data(self, sets: Mapping[str, str], pipeline: Path, budget: Limits | None) -> dict[str, Any]:
        columns = {name: getattr(self, name) for name in ("prompt", "gold", "sample")}
        columns = {name: value for name, value in columns.items() if value is not None}
        return {
            "name": next(iter(sets)),
            "tasks": {name: {"file": file, **columns} for name, file in sets.items()},
            "scorer": self.model_dump(mode="json", exclude_defaults=True)["scorer"],
            "arms": {_ARM: {"pipeline": str(pipeline.resolve())}},
            "baselines": ["random_mixing"],
            "max_tokens": self.max_tokens,
            "seeds": [self.seed],
            "budget": {} if budget is None else budget.model_dump(mode="json", exclude_none=True),
        }

    def _models(self, files: Sequence[str]) -> list[str]:
        places = _places(files, self.models)
        models = _named(self.models, places) or [model for place in places for model in _all(place)]
        models = list(dict.fromkeys(models))
        if not FEWEST <= len(models) <= MOST:
            raise UsageError(
                f"{len(models)} models to choose from: give {FEWEST} to {MOST}, as in --over openai/gpt-5.6,groq/x "
                "(`models` in Python)"
            )
        return models

    def _routed(self, sets: Mapping[str, str], cascade: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the cascade, or a route to one for each task set."""
        if not self.routes:
            return cascade
        for name in self.routes:
            if name not in sets:
                raise UsageError(f"a route for {name!r}, which is no task set{close_names(name, sets)}")
        rest = [name for name in sets if name not in self.routes]
        if len(rest) > 1:
            raise UsageError(f"no route for {' and '.join(map(repr, rest))}: give a pattern for each set but one")
        default = rest[0] if rest else list(sets)[-1]
        return {
            "kind": "route",
            "rules": [{"matches": pattern, "use": name} for name, pattern in self.routes.items()],
            "default": default,
            "routes": dict.fromkeys(sets, cascade),
        }


def set_name(file: Path | str) -> str:
    """Return the name of the task set of a file, or of a recording."""
    return Path(str(file).removeprefix(PREFIX)).name.partition(".")[0] or "items"


def task_sets(given: Sequence[str]) -> dict[str, str]:
    """Return the files of the items by the names of their task sets. Raises UsageError for two of one name."""
    if not given:
        raise UsageError("no items: give a file of them, or a recording as replay:FOLDER")
    files = [str(path) for one in given for path in _files(one)]
    sets: dict[str, str] = {}
    for file in files:
        name = set_name(file)
        if name in sets:
            raise UsageError(f"{file!r} and {sets[name]!r} have the same name; rename one, since it names a task set")
        sets[name] = file
    return sets


def _files(given: str) -> Iterator[Path]:
    if given.startswith(PREFIX):
        yield from recordings(given.removeprefix(PREFIX))
    else:
        yield Path(given)


def _places(files: Sequence[str], models: Sequence[str]) -> list[str]:
    """Return the recordings that the items or the models are of."""
    named = [*files, *(model for model in models if "#" not in model)]
    return list(dict.fromkeys(one.removeprefix(PREFIX) for one in named if one.startswith(PREFIX)))


def _all(place: str) -> list[str]:
    return [f"{PREFIX}{place}#{name}" for name in recorded_models(place)]


def _named(models: Sequence[str], places: Sequence[str]) -> list[str]:
    """Return the ids of models: of all of a recording, and of those that are named as a recording names them."""
    recorded = {name: f"{PREFIX}{place}#{name}" for place in reversed(places) for name in recorded_models(place)}
    found: list[str] = []
    for model in models:
        if model.startswith(PREFIX) and "#" not in model:
            found += _all(model.removeprefix(PREFIX))
        else:
            found.append(recorded.get(model, model))
    return found
