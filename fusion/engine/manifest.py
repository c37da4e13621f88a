"""Record: what a run needs to be run again, as JSON data: pipeline, templates, schemas, models, inputs, limits."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from fusion.core.errors import StoreError, UsageError
from fusion.core.params import RoleSpec
from fusion.core.types import Asked, File, FileText, Limits
from fusion.engine.roles import RoleModel, RoleModels
from fusion.engine.run_spec import Terms
from fusion.models.base import Model, ModelInfo
from fusion.models.gateway import Gateway
from fusion.models.wrappers.fallback import Breaker, Member
from fusion.models.wrappers.journal import Pinned, Unreachable
from fusion.pipeline.dataflow import Schemas, schemas_of
from fusion.pipeline.loader import Made, Nested
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library, PinnedLibrary
from fusion.prompts.template import Prompts

_VERSION: Final = 1
_MARK: Final = "$kind"
_NOT_MEANT: Final = ("limits", "strict_usd", "file", "cache")


@dataclass(frozen=True, slots=True)
class Record:
    """What a run is made of, as JSON data."""

    data: Mapping[str, Any]

    @classmethod
    def of(cls, made: Made, roles: RoleModels, terms: Terms, own: Collection[str] = ()) -> "Record":
        """The record of a run that is about to begin; `own` are the ids of models that are objects of the user's."""
        return cls(
            {
                "version": _VERSION,
                **_made(made.pipeline, made.prompts, made.near, made.nested, made.schemas, made.file),
                "roles": _roles(roles),
                "own": sorted(own),
                "inputs": {name: _packed(value) for name, value in terms.inputs.items()},
                "request": _packed(terms.request),
                "limits": terms.limits.model_dump(mode="json", exclude_none=True),
                "strict_usd": terms.strict_usd,
                "profile": terms.profile,
                "cache": terms.cache,
                "sample": terms.sample,
            }
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex), the same for runs of the same pipeline, templates, inputs and models."""
        meant = {key: value for key, value in self.data.items() if key not in _NOT_MEANT}
        return hashlib.sha256(json.dumps(meant, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline.from_data(self.data["pipeline"])

    @property
    def undeclared(self) -> dict[str, RoleSpec]:
        """Who played the roles of which the pipeline itself says nothing."""
        declared = self.data["pipeline"].get("roles", {})
        return {
            role: RoleSpec(
                chain=tuple(info["id"] for info in one["chain"]),
                timeout=one["timeout"],
                concurrency=one["concurrency"],
                **one["params"],
            )
            for role, one in self.data["roles"]["roles"].items()
            if role not in declared
        }

    def made(self, library: Library) -> Made:
        """The pipeline as it was, whatever its files say now. Raises StoreError where it cannot be read any more."""
        if self.data.get("version") != _VERSION:
            raise StoreError(
                f"this run was begun by another version of Fusion (its record has the version "
                f"{self.data.get('version')!r}, this one reads {_VERSION}); run it again with `fusion run`"
            )
        try:
            pipeline, prompts, nested = _read(self.data, library)
        except (KeyError, ValidationError) as error:
            raise StoreError(f"this run's record cannot be read by this version of Fusion: {error}") from error
        file = self.data["file"]
        return Made(pipeline, prompts, None, nested, self.data["schemas"], None if file is None else Path(file))

    def terms(self) -> Terms:
        """The terms as they were."""
        data = self.data
        return Terms(
            inputs={name: _unpacked(value) for name, value in data["inputs"].items()},
            request=_unpacked(data["request"]),
            limits=Limits.model_validate(data["limits"]),
            strict_usd=data["strict_usd"],
            profile=data["profile"],
            cache=data["cache"],
            sample=data["sample"],
        )

    def roles(self, gateway: Gateway, own: Collection[str] = ()) -> RoleModels:
        """The models as they were. One that cannot be reached any more fails when it is asked, and not before."""
        return _models(self.data["roles"], _Reach(gateway, frozenset(self.data["own"]) - frozenset(own)))


def _made(
    pipeline: Pipeline,
    prompts: Prompts,
    near: Path | None,
    nested: Mapping[str, Nested],
    schemas: Schemas | None,
    file: Path | None,
) -> dict[str, Any]:
    return {
        "pipeline": to_jsonable_python(pipeline.to_data()),
        "file": None if file is None else str(file.absolute()),
        "templates": dict(prompts.texts),
        "schemas": {
            path: dict(shapes) for path, shapes in (schemas or schemas_of(pipeline, near=near)).items() if shapes
        },
        "nested": {
            path: _made(one.pipeline, one.prompts, one.path.parent, one.nested, one.schemas, one.path)
            for path, one in nested.items()
        },
    }


def _read(data: Mapping[str, Any], library: Library) -> tuple[Pipeline, Prompts, dict[str, Nested]]:
    prompts = Prompts(PinnedLibrary(library.roots, data["templates"]))
    nested = {}
    for path, one in data["nested"].items():
        inner, its_prompts, its_nested = _read(one, library)
        nested[path] = Nested(Path(one["file"]), inner, its_prompts, its_nested, one["schemas"])
    return Pipeline.from_data(data["pipeline"]), prompts, nested


def _roles(roles: RoleModels) -> dict[str, Any]:
    return {
        "roles": {
            role: {
                "chain": [info.model_dump(mode="json", exclude_defaults=True) for info in one.models],
                "params": to_jsonable_python(one.params),
                "timeout": one.timeout,
                "concurrency": one.concurrency,
            }
            for role, one in roles.items()
        },
        "nested": {path: _roles(one) for path, one in roles.nested.items()},
    }


class _Reach(NamedTuple):
    """Where models come from, and the ids of those that were objects of the user's and are not given any more."""

    gateway: Gateway
    gone: frozenset[str]


def _models(data: Mapping[str, Any], reach: _Reach) -> RoleModels:
    roles = {
        role: RoleModel(
            tuple(_member(ModelInfo.model_validate(info), reach, one["concurrency"]) for info in one["chain"]),
            one["params"],
            one["timeout"],
            one["concurrency"],
        )
        for role, one in data["roles"].items()
    }
    nested = {path: _models(one, reach) for path, one in data["nested"].items()}
    return RoleModels(roles, reach.gateway, nested=nested)


def _member(info: ModelInfo, reach: _Reach, concurrency: int | None) -> Member:
    try:
        if info.id in reach.gone:
            raise UsageError(f"the model {info.id!r} was an object of Python's: give it again as `models` or `roles`")
        member = reach.gateway.member(info.id, concurrency=concurrency)
    except UsageError as error:
        gone: Model = Unreachable(info, error)
        return Member(gone, gone, Breaker())
    if member.info == info:
        return member
    return member._replace(primary=Pinned(member.primary, info), last=Pinned(member.last, info))


# Values of inputs, as JSON and back.


def _packed(value: Any) -> Any:
    """A value as JSON data from which `_unpacked` makes it again."""
    if isinstance(value, File):
        return {_MARK: "file", **value.model_dump(mode="json")}
    if isinstance(value, Asked):
        return {
            _MARK: "asked",
            "text": str(value),
            "system": value.system,
            "files": [file.model_dump(mode="json") for file in value.files],
        }
    if isinstance(value, FileText):
        return {_MARK: "text", "text": str(value), "where": value.where}
    if isinstance(value, Mapping):
        packed = {str(key): _packed(part) for key, part in value.items()}
        return {_MARK: "map", "of": packed} if _MARK in packed else packed
    if isinstance(value, (list, tuple)):
        return [_packed(part) for part in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else to_jsonable_python(value)


def _unpacked(data: Any) -> Any:
    if isinstance(data, list):
        return [_unpacked(part) for part in data]
    if not isinstance(data, dict):
        return data
    kind = data.get(_MARK)
    if kind == "file":
        return _file(data)
    if kind == "asked":
        return Asked(data["text"], tuple(_file(file) for file in data["files"]), data["system"])
    if kind == "text":
        return FileText(data["text"], data["where"])
    return {key: _unpacked(part) for key, part in (data["of"] if kind == "map" else data).items()}


def _file(data: Mapping[str, Any]) -> File:
    from base64 import b64decode

    return File(media_type=data["media_type"], data=b64decode(data["data"]), name=data["name"])
