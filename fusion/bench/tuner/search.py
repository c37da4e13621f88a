"""Search: a cascade that is left open, `tiers: {search: …}`, and the pipelines that its ways make of it."""

import copy
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from fusion.bench.arms.base import short_name
from fusion.bench.suite import validate
from fusion.bench.tuner.space import Space, Way
from fusion.core.validation import Mistake
from fusion.core.yaml import Place
from fusion.models.providers.replay import PREFIX
from fusion.pipeline.spec import Pipeline
from fusion.stages.kinds.cascade import Cascade
from fusion.stages.text.extract import Extractor

SEARCH: Final = "search"
PLAIN: Final = "generate/pass-through"
"""The template that sends the request as it is."""
_OF_CASCADES: Final = ("tiers", "accept", "early_stop", "kind", "prompt")
"""Keys of a cascade that a `generate` lacks, or that are written anew."""
_OF_ACCEPT: Final = frozenset({"agree", "extract"})


class OpenCascade(NamedTuple):
    """A cascade whose tiers are searched: its place in the pipeline, and the role of each model of its space.

    `extract` is the author's comparison of answers; None if it follows the scorer.
    """

    place: Place
    space: Space
    roles: Mapping[str, str]
    extract: Any

    @property
    def route(self) -> str:
        """The names of the stage and of the routes to it."""
        return "/".join(str(part) for part in self.place[1:] if part != "routes")


class OpenPipeline(NamedTuple):
    """The data of a pipeline with open cascades."""

    data: Mapping[str, Any]
    cascades: tuple[OpenCascade, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """All models to choose from, as the author names them."""
        return tuple(dict.fromkeys(model for one in self.cascades for model in one.space.models))

    def calls_as_alone(self, max_tokens: int) -> bool:
        """True if each call of the cascades is the one of a model alone: the request, and no parameter of its own."""
        defaults, roles, inputs = (self.data.get(name) or {} for name in ("defaults", "roles", "inputs"))
        stages = [self._at(one.place) for one in self.cascades]
        limits = {one.get("max_tokens", defaults.get("max_tokens", Cascade.own_max_tokens)) for one in stages}
        return (
            len(inputs) == 1
            and all(isinstance(one, str) or one.keys() <= {"description", "default"} for one in inputs.values())
            and limits == {max_tokens}
            and defaults.keys() <= {"max_tokens"}
            and all(isinstance(one, str) for one in roles.values())
            and all(one.get("prompt", PLAIN) == PLAIN and "schema" not in one for one in stages)
        )

    def whole(self) -> dict[str, Any]:
        """Return the pipeline with all models as cheap ones, which names every role."""

        def tiers(cascade: OpenCascade) -> dict[str, Any]:
            roles = list(cascade.roles.values())
            return {"tiers": [{"roles": roles}, roles[-1]], "accept": {"agree": 2}}

        return self._with({one.place: {**_rest(self._at(one.place)), **tiers(one)} for one in self.cascades})

    def alone(self, model: str) -> dict[str, Any]:
        """Return the pipeline with one model in place of every cascade that may ask it."""
        own = {one.place: model if model in one.space.models else one.space.models[0] for one in self.cascades}
        return self.chosen({place: Way((), asked) for place, asked in own.items()}, {})

    def chosen(self, ways: Mapping[Place, Way], extracts: Mapping[Place, Any]) -> dict[str, Any]:
        """Return the pipeline with a way in each open cascade. A single model answers without a cascade."""
        stages = {}
        for one in self.cascades:
            way, stage = ways[one.place], self._at(one.place)
            roles = [one.roles[model] for model in way.models]
            if not way.cheap:
                stages[one.place] = {"kind": "generate", "role": roles[0], **self._of_single(stage)}
                continue
            extract = {"extract": extracts[one.place]} if extracts.get(one.place) else {}
            tiers = [{"roles": roles[:-1]}, roles[-1]]
            stages[one.place] = {**_rest(stage), "tiers": tiers, "accept": {"agree": one.space.agree, **extract}}
        return self._with(stages)

    def _of_single(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of a `generate` that sends what a cascade sends."""
        own = {name: value for name, value in stage.items() if name not in _OF_CASCADES}
        if "max_tokens" not in {**(self.data.get("defaults") or {}), **own}:
            own["max_tokens"] = Cascade.own_max_tokens
        return {"prompt": stage.get("prompt", PLAIN), **own}

    def decider(self) -> dict[str, Any]:
        """Return the pipeline with a text in place of every target of its routes: the number of the cascade."""
        numbers = {one.place: at for at, one in enumerate(self.cascades)}
        data = self._with({})
        name = str(self.cascades[0].place[1])
        data["stages"][name] = _marked(data["stages"][name], ("stages", name), numbers)
        return data

    def _at(self, place: Place) -> Mapping[str, Any]:
        found: Any = self.data
        for part in place:
            found = found[part]
        return dict(found)

    def _with(self, stages: Mapping[Place, Any]) -> dict[str, Any]:
        data = copy.deepcopy(dict(self.data))
        for place, stage in stages.items():
            inside: Any = data
            for part in place[:-1]:
                inside = inside[part]
            inside[place[-1]] = stage
        return data


def _rest(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stage.items() if name not in ("tiers", "accept")}


def _marked(stage: Any, place: Place, numbers: Mapping[Place, int]) -> Any:
    if isinstance(stage, Mapping) and stage.get("kind") == "route":
        routes = {name: _marked(to, (*place, "routes", name), numbers) for name, to in stage["routes"].items()}
        kept = {name: value for name, value in stage.items() if name not in ("prompt", "schema", "max_tokens")}
        return {**kept, "routes": routes}
    return {"kind": "render", "template": f"cascade {numbers.get(place, '-')}"}


# Reading.


def read_search(
    data: Mapping[str, Any],
    *,
    given: Collection[str],
    endpoints: Collection[str],
    resolve: Callable[[str], str] = lambda model: model,
) -> tuple[OpenPipeline | None, list[Mistake]]:
    """Return the open cascades of a pipeline, None without one, and the mistakes in them.

    `given` are the roles of the arm, `endpoints` the names of the user's servers, which are models. `resolve` looks
    up the file of a recorded model.
    """
    found = list(_searched(data, ()))
    if not found:
        return None, []
    declared = data.get("roles")
    roles = dict(declared) if isinstance(declared, Mapping) else {}
    known = {*given, *roles}
    made: dict[str, str] = {}
    cascades, mistakes = [], [*_misplaced(data, [place for place, _ in found])]
    for place, stage in found:
        space, wrong = _space(place, stage)
        mistakes += wrong
        if space is None:
            continue
        for model in space.models:
            made.setdefault(model, _role(model, {*known, *made.values()}, endpoints))
        named = {model: made[model] for model in space.models}
        roles |= {role: resolve(model) for model, role in named.items() if role != model}
        extract = stage["accept"].get("extract") if isinstance(stage.get("accept"), Mapping) else None
        cascades.append(OpenCascade(place, space, named, extract))
    if mistakes:
        return None, mistakes
    return OpenPipeline({**data, "roles": roles} if roles else data, tuple(cascades)), []


def only_asked(open_: OpenPipeline, whole: Pipeline) -> Iterator[Mistake]:
    """Yield a mistake for each other stage that asks a model: its cost and its effect are no part of a way."""
    searched = str(open_.cascades[0].place[1])
    for name, stage in whole.stages.items():
        if name != searched and (any(stage.roles()) or any(stage.pipelines())):
            message = f"asks a model; a `search` is of the only stage that does, here {searched!r}"
            yield Mistake(("stages", name), True, message)


def _searched(data: Any, place: Place) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield the stages with `search` in place of their tiers, and their places."""
    if isinstance(data, Mapping):
        tiers = data.get("tiers")
        if isinstance(tiers, Mapping) and SEARCH in tiers:
            yield place, data
            return
        for name, value in data.items():
            yield from _searched(value, (*place, name))
    elif isinstance(data, list):
        for at, value in enumerate(data):
            yield from _searched(value, (*place, at))


def _space(place: Place, stage: Mapping[str, Any]) -> tuple[Space | None, list[Mistake]]:
    tiers, accept = stage["tiers"], stage.get("accept", {})
    if len(tiers) > 1:
        return None, [Mistake((*place, "tiers"), False, "`search` must be the only key of `tiers`")]
    given = tiers[SEARCH]
    if not isinstance(given, Mapping):
        message = "`search` is a mapping, as in {models: [bulk, second, frontier]}"
        return None, [Mistake((*place, "tiers", SEARCH), False, message)]
    mistakes = list(_of_stage(place, stage))
    if isinstance(accept, Mapping) and "agree" in accept:
        given = {"agree": accept["agree"], **given}
        if given["agree"] != accept["agree"]:
            message = f"`search` has another number to agree: {given['agree']}; write it once"
            mistakes.append(Mistake((*place, "accept", "agree"), False, message))
    space, wrong = validate(Space, given)
    mistakes += [one._replace(place=(*place, "tiers", SEARCH, *one.place)) for one in wrong]
    strange = [name for name in (space.last if space else ()) if space and name not in space.models]
    if strange:
        message = f"{strange[0]!r} is not among the `models` of the search"
        mistakes.append(Mistake((*place, "tiers", SEARCH, "else"), False, message))
    return (None if mistakes else space), mistakes


def _of_stage(place: Place, stage: Mapping[str, Any]) -> Iterator[Mistake]:
    if stage.get("kind") != "cascade":
        yield Mistake((*place, "tiers"), False, "`search` is for the tiers of a `cascade`")
    if "over" in stage:
        yield Mistake((*place, "over"), True, "a `search` is of a cascade that answers once; leave out `over`")
    if stage.get("early_stop") is False:
        yield Mistake((*place, "early_stop"), True, "a `search` counts on `early_stop`: its late voter is asked late")
    accept = stage.get("accept", {})
    if not isinstance(accept, Mapping):
        yield Mistake((*place, "accept"), False, "expected a mapping, as in {extract: number}")
        return
    for name in accept:
        if name not in _OF_ACCEPT:
            message = f"a `search` accepts by agreement: `accept` takes `extract` beside it, not {name!r}"
            yield Mistake((*place, "accept", name), True, message)
    if "extract" in accept:
        try:
            as_extractor(accept["extract"])
        except ValidationError:
            yield Mistake((*place, "accept", "extract"), False, "expected text, number or code, or a mapping of them")


def as_extractor(given: Any) -> Extractor:
    """Return the comparison of answers that an author wrote. Raises ValidationError for an invalid one."""
    return Extractor.model_validate({"read": given} if isinstance(given, str) else given)


def _misplaced(data: Mapping[str, Any], places: list[Place]) -> Iterator[Mistake]:
    """Yield a mistake for each open cascade that is not the answer of its pipeline."""
    for place in places:
        if len(place) < 2 or place[0] != "stages":
            yield Mistake(place, False, "a `search` is for the tiers of a cascade under `stages`")
            continue
        name, inner = str(place[1]), place[2:]
        if len(inner) % 2 or any(part != "routes" for part in inner[::2]):
            yield Mistake(place, False, "a `search` is of a cascade under `stages`, or of a route's")
            continue
        if data.get("output") not in (name, f"{name}.text", f"{name}.data"):
            yield Mistake(("output",), False, f"a `search` is of the answer: write `output: {name}`")
        outer: Any = data["stages"][name]
        for depth in range(0, len(inner), 2):
            yield from _of_route(place[: 2 + depth], outer)
            outer = outer["routes"][inner[depth + 1]]


def _of_route(place: Place, stage: Mapping[str, Any]) -> Iterator[Mistake]:
    if stage.get("kind") != "route":
        yield Mistake(place, False, "a `search` within a stage is for the routes of a `route`")
    for name, why in (("classifier", "asks a model"), ("over", "works on items")):
        if name in stage:
            message = f"the route of a `search` decides by `rules` or `examples`; this {why}"
            yield Mistake((*place, name), True, message)


def _role(model: str, known: Collection[str], endpoints: Collection[str]) -> str:
    """Return the role that asks a model: its own word if that is a role, else a new name."""
    is_id = "/" in model or model.startswith(PREFIX) or model in endpoints
    if model in known or not is_id:
        return model
    bare = re.sub(r"[^a-z0-9]+", "_", short_name(model).rpartition("/")[2].lower()).strip("_") or "model"
    bare = bare if bare[0].isalpha() else f"m_{bare}"
    name, number = bare, 1
    while name in known:
        number += 1
        name = f"{bare}_{number}"
    return name
