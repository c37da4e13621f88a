"""Bodies: graphs of stages within a stage, each read as a pipeline of its own."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fusion.core.types import Limits
from fusion.core.yaml import Place
from fusion.pipeline.spec import Pipeline
from fusion.stages.base import LOOP, Body, Stage


class Around(NamedTuple):
    """Surroundings of a body: the names that its stages read beside each other, and the inputs that are material."""

    names: frozenset[str]
    material: frozenset[str] = frozenset()


class BodyPlace(NamedTuple):
    """A body: the path of its stage, its place in the file, and the names that the stage offers for an item."""

    path: str
    place: Place
    body: Body
    offers: frozenset[str]

    def names(self, pipeline: Pipeline, around: Around | None) -> frozenset[str]:
        """Return the names that its stages read beside each other."""
        return frozenset({*pipeline.stages, LOOP, *self.offers, *(around.names if around is not None else ())})

    def moved(self, place: Place) -> Place:
        """Return the place in the file of a place in the pipeline that the body is read as."""
        match place:
            case ("stages", *rest):
                return (*self.place, self.body.key, *rest)
            case ("output", str(key), *_):
                return (*self.place, *key.split("."))
        return place


def bodies_of(
    stages: Mapping[str, Stage],
    *,
    path: str = "",
    place: Place = ("stages",),
    offers: frozenset[str] = frozenset(),
) -> Iterator[BodyPlace]:
    """Yield the bodies of these stages and of their inner stages; bodies within bodies are those of their own."""
    for name, stage in stages.items():
        here, within = (*place, name), offers | stage.item_offers
        if stage.graph is not None:
            yield BodyPlace(path + name, here, stage.graph, within)
        yield from bodies_of(stage.inner(), path=f"{path}{name}/", place=(*here, stage.inner_key), offers=within)


def body_pipeline(pipeline: Pipeline, body: Body) -> Pipeline:
    """Return the pipeline that a body is read as: with the inputs, roles and defaults of the one around."""
    changes = {"stages": dict(body.stages), "output": dict(body.outputs), "budget": Limits()}
    return pipeline.model_copy(update=changes)
