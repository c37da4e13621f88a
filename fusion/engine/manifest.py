"""Record: pipeline, templates, schemas, models, inputs and limits of a run as JSON data, to run it again."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary, ref

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from fusion.core.config.policy import Refusal
from fusion.core.errors import ModelConnectionError, PolicyError, StoreError, UsageError
from fusion.core.params import AnswerOptions, RoleSpec
from fusion.core.types import Asked, File, FileText, Limits, Message, Turn
from fusion.engine.context.learned import figures_of
from fusion.engine.roles import RoleModel, RoleModels
from fusion.engine.run_spec import RunSpec
from fusion.models.base import Model, ModelInfo
from fusion.models.gateway import Gateway
from fusion.models.profiles import is_shipped
from fusion.models.wrappers.breaker import Breaker
from fusion.models.wrappers.fallback import Member
from fusion.models.wrappers.journal import Pinned, Unreachable
from fusion.pipeline.loader import LoadedPipeline, with_bodies
from fusion.pipeline.spec import Pipeline
from fusion.prompts.library import Library, PinnedLibrary
from fusion.prompts.template import Prompts
from fusion.sandbox import SandboxDoor
from fusion.stages.text import sections
from fusion.store.encoding import Json, as_json
from fusion.tools.base import Toolbox, Tools

_VERSION: Final = 2
_RENDERING: Final = 2
"""Version of what code adds to prompts: the marks of fences, and headings. Records of the first have none."""
_MARK: Final = "$kind"
_NOT_IN_FINGERPRINT: Final = ("limits", "strict_usd", "file", "cache", "batch", "rendering")
_NOT_SHARED: Final = (*_NOT_IN_FINGERPRINT, "inputs", "request")


class _Encoded(NamedTuple):
    """Members of a record: as data, as JSON to store, and each as the JSON that a fingerprint reads."""

    data: Mapping[str, Any]
    json: Json
    digested: Mapping[str, Json]


_NOTHING: Final = _Encoded({}, "{}", {})


@dataclass(frozen=True, slots=True)
class Record:
    """The spec of a run as JSON data. `encoded` are the members that are encoded already."""

    data: Mapping[str, Any]
    encoded: _Encoded = _NOTHING

    @classmethod
    def of(cls, spec: RunSpec, own: Collection[str] = ()) -> "Record":
        """Return the record of a new run; `own` holds the ids of models that are objects of the user's."""
        shared = _shared(spec, own)
        return cls({**shared.data, **inputs_data(spec), **_answer_data(spec)}, shared)

    @classmethod
    def shared(cls, spec: RunSpec, own: Collection[str] = ()) -> "Record":
        """Return the record of a spec without its inputs, which the rows of a map share."""
        shared = _shared(spec, own)
        return cls({**shared.data, **_answer_data(spec)}, shared)

    @property
    def json(self) -> Json:
        """The record as it is stored."""
        rest = as_json({name: value for name, value in self.data.items() if name not in self.encoded.data})
        return "{" + ",".join(part[1:-1] for part in (self.encoded.json, rest) if part != "{}") + "}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of pipeline, templates, inputs and models, wherever their prices are from."""
        rest = {name: value for name, value in self.data.items() if name not in self.encoded.data}
        texts = {**self.encoded.digested, **_digested(rest)}
        members = ", ".join(f"{_sorted(name)}: {texts[name]}" for name in sorted(texts))
        return hashlib.sha256(f"{{{members}}}".encode()).hexdigest()

    @property
    def shared_fingerprint(self) -> str:
        """SHA-256 (hex) of pipeline, templates and models, whatever the models cost now."""
        relevant = {key: value for key, value in self.data.items() if key not in _NOT_SHARED}
        relevant["roles"] = _without(("price", "price_source"), self.data["roles"])
        return _digest(relevant)

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline.from_data(self.data["pipeline"])

    @property
    def undeclared(self) -> dict[str, RoleSpec]:
        """The roles that the pipeline does not declare, with their models."""
        declared = self.data["pipeline"].get("roles", {})
        return {
            role: RoleSpec(
                chain=tuple(info["id"] for info in one["chain"]),
                timeout=one["timeout"],
                concurrency=one["concurrency"],
                **one["params"],
                **one.get("resilience", {}),
            )
            for role, one in self.data["roles"]["roles"].items()
            if role not in declared
        }

    @property
    def inputs(self) -> dict[str, Any]:
        return {name: _unpacked(value) for name, value in self.data["inputs"].items()}

    @property
    def answer(self) -> AnswerOptions | None:
        """The options of the stage that writes the answer."""
        data = self.data.get("answer")
        if data is None:
            return None
        turns = tuple(_turn(one) for one in data.get("turns", ()))
        return AnswerOptions.model_validate({**data, "turns": turns})

    def loaded(self, library: Library) -> LoadedPipeline:
        """Return the recorded pipeline, whatever its files hold now. Raises StoreError if it cannot be read."""
        self.check_version()
        try:
            return _read(self.data, library)
        except (KeyError, ValidationError) as error:
            raise StoreError(f"this run's record cannot be read by this version of Fusion: {error}") from error

    def check_version(self) -> None:
        """Raise StoreError for a record of another version, whose calls would not be found again."""
        if self.data.get("version") != _VERSION:
            raise StoreError(
                "this run cannot be resumed: it was begun by another version of Fusion (its record has the version "
                f"{self.data.get('version')!r}, this one resumes {_VERSION}); run it again with `fusion run`"
            )
        if (self.data["sections"], self.data.get("rendering", 1)) != (sections.VERSION, _RENDERING):
            raise StoreError(
                "this run cannot be resumed: another version of Fusion wrote its prompts, so that finished calls "
                "would be paid again; run it again with `fusion run`"
            )

    def spec(
        self, library: Library, gateway: Gateway, own: Collection[str] = (), toolbox: Toolbox = Tools.NONE
    ) -> RunSpec:
        """Return the recorded spec. A model that can no longer be reached fails when it is called, not before.

        Raises PolicyError for a model that the policy forbids now, unless a profile chose it and has another one.
        """
        data = self.data
        loaded = self.loaded(library)
        return RunSpec(
            loaded,
            _models(
                data["roles"],
                _Reach(gateway, frozenset(data["own"]) - frozenset(own), data["profile"], self.undeclared.keys()),
            ),
            inputs=self.inputs,
            request=_unpacked(data["request"]),
            limits=Limits.model_validate(data["limits"]),
            strict_usd=data["strict_usd"],
            profile=data["profile"],
            cache=data["cache"],
            sample=data["sample"],
            batch=data.get("batch", False),
            learned=figures_of(gateway.settings) if loaded.reads_learned else None,
            answer_tokens=data.get("answer_tokens"),
            answer=self.answer,
            toolbox=toolbox,
            sandbox=SandboxDoor(gateway.settings.sandbox),
        )


def inputs_data(spec: RunSpec) -> dict[str, Any]:
    """Return the inputs of a spec as JSON data: the part of a record that differs between the rows of a map."""
    return {
        "inputs": {name: _packed(value) for name, value in spec.inputs.items()},
        "request": _packed(spec.request),
    }


def _answer_data(spec: RunSpec) -> dict[str, Any]:
    """Return the options of the answer as JSON data; nothing without any, so that such a record stays the same."""
    if spec.answer is None:
        return {}
    return {"answer": spec.answer.model_dump(mode="json", exclude_defaults=True)}


def with_data(spec: RunSpec, data: Mapping[str, Any]) -> RunSpec:
    """Return a spec with the inputs that `inputs_data` returned."""
    inputs = {name: _unpacked(value) for name, value in data["inputs"].items()}
    return replace(spec, inputs=inputs, request=_unpacked(data["request"]))


def row_fingerprint(shared: str, inputs: Mapping[str, Any]) -> str:
    """Return the fingerprint of a row, SHA-256 (hex), from that of its map and the data of its inputs."""
    return _digest([shared, inputs])


def _digest(data: Any) -> str:
    return hashlib.sha256(_sorted(data).encode()).hexdigest()


def _sorted(data: Any) -> Json:
    """Return JSON that is equal for equal data."""
    return json.dumps(data, sort_keys=True, ensure_ascii=False)


def _digested(data: Mapping[str, Any]) -> dict[str, Json]:
    """Return the members of a record that its fingerprint reads, each as JSON."""
    relevant = {name: value for name, value in data.items() if name not in _NOT_IN_FINGERPRINT}
    if "roles" in relevant:
        relevant["roles"] = _without(("price_source",), relevant["roles"])
    return {name: _sorted(value) for name, value in relevant.items()}


_LATEST: Final = WeakKeyDictionary[LoadedPipeline, tuple["ref[RoleModels]", tuple[Any, ...], _Encoded]]()
"""The members that records of a pipeline share, as they were last encoded."""


def _shared(spec: RunSpec, own: Collection[str]) -> _Encoded:
    """Return the members of a record without the inputs; those of runs on the same terms are encoded once."""
    roles, own = spec.roles, sorted(own)
    terms = (own, spec.limits, spec.strict_usd, spec.profile, spec.cache, spec.sample, spec.batch, spec.answer_tokens)
    latest = _LATEST.get(spec.loaded)
    if latest is not None and latest[0]() is roles and latest[1] == terms:
        return latest[2]
    data = {
        "version": _VERSION,
        "sections": sections.VERSION,
        "rendering": _RENDERING,
        **_loaded(spec.loaded),
        "roles": _roles(roles),
        "own": own,
        "limits": spec.limits.model_dump(mode="json", exclude_none=True),
        "strict_usd": spec.strict_usd,
        "profile": spec.profile,
        "cache": spec.cache,
        "sample": spec.sample,
        **({"batch": True} if spec.batch else {}),
        **({"answer_tokens": spec.answer_tokens} if spec.answer_tokens is not None else {}),
    }
    encoded = _Encoded(data, as_json(data), _digested(data))
    _LATEST[spec.loaded] = ref(roles), terms, encoded
    return encoded


def _loaded(loaded: LoadedPipeline) -> dict[str, Any]:
    return {
        "pipeline": to_jsonable_python(loaded.pipeline.to_data()),
        "file": None if loaded.file is None else str(loaded.file.absolute()),
        "templates": dict(loaded.prompts.texts),
        "schemas": {path: dict(shapes) for path, shapes in loaded.schemas.items() if shapes},
        "nested": {path: _loaded(one) for path, one in loaded.nested.items()},
    }


def _read(data: Mapping[str, Any], library: Library) -> LoadedPipeline:
    file = data["file"]
    loaded = LoadedPipeline(
        Pipeline.from_data(data["pipeline"]),
        Prompts(PinnedLibrary(library.roots, data["templates"])),
        nested={path: _read(one, library) for path, one in data["nested"].items()},
        pinned=data["schemas"],
        file=None if file is None else Path(file),
    )
    return with_bodies(loaded)


def _roles(roles: RoleModels) -> dict[str, Any]:
    return {
        "roles": {
            role: {
                "chain": [_info(info) for info in one.models],
                "params": to_jsonable_python(one.params),
                "timeout": one.timeout,
                "concurrency": one.concurrency,
                **({"resilience": dict(one.resilience)} if one.resilience else {}),
            }
            for role, one in roles.items()
        },
        "nested": {path: _roles(one) for path, one in roles.nested.items()},
    }


def _info(info: ModelInfo) -> dict[str, Any]:
    """Return what is known of a model as JSON data, which is the same in every process: sets are sorted."""
    data = info.model_dump(mode="json", exclude_defaults=True)
    return {name: sorted(one) if isinstance(getattr(info, name), frozenset) else one for name, one in data.items()}


def _without(names: Collection[str], data: Any) -> Any:
    """Return recorded roles without these keys, such as those of prices, which change with every price file."""
    if isinstance(data, Mapping):
        return {name: _without(names, one) for name, one in data.items() if name not in names}
    return [_without(names, one) for one in data] if isinstance(data, list) else data


class _Reach(NamedTuple):
    """A gateway, the ids of recorded model objects that the user no longer gives, the profile and its roles."""

    gateway: Gateway
    gone: frozenset[str]
    profile: str
    undeclared: Collection[str]

    def refusals(self, chain: Iterable[ModelInfo]) -> dict[str, Refusal]:
        """Return the reasons why models of a chain may not be called, by id."""
        found = {info.id: self.gateway.refusal(info.id) for info in chain if info.id not in self.gone}
        return {model_id: why for model_id, why in found.items() if why is not None}


def _models(data: Mapping[str, Any], reach: _Reach) -> RoleModels:
    notes: list[str] = []
    roles = {
        role: RoleModel(
            _chain(role, one, reach, notes),
            one["params"],
            one["timeout"],
            one["concurrency"],
            one.get("resilience", {}),
        )
        for role, one in data["roles"].items()
    }
    nested = {path: _models(one, reach) for path, one in data["nested"].items()}
    return RoleModels(roles, reach.gateway, nested=nested, notes=notes)


def _chain(role: str, data: Mapping[str, Any], reach: _Reach, notes: list[str]) -> tuple[Member, ...]:
    """Return the chain of a role; models that a profile chose and the policy forbids now answer no call."""
    infos = [ModelInfo.model_validate(info) for info in data["chain"]]
    refused = reach.refusals(infos)
    chosen = role in reach.undeclared and is_shipped(reach.profile, role, [info.id for info in infos])
    if refused and not (chosen and len(refused) < len(infos)):
        raise PolicyError(str(next(iter(refused.values()))))
    notes += [f"not called any more: {why.note}" for why in refused.values()]
    return tuple(
        _forbidden(info, refused[info.id]) if info.id in refused else _member(info, reach, data["concurrency"])
        for info in infos
    )


def _forbidden(info: ModelInfo, why: Refusal) -> Member:
    """Return a model that only the journal answers for, so that its finished calls are found again."""
    gone = Unreachable(info, ModelConnectionError(why.note, model=info.id, sent=False))
    return Member(gone, gone, Breaker())


def _member(info: ModelInfo, reach: _Reach, concurrency: int | None) -> Member:
    try:
        if info.id in reach.gone:
            raise UsageError(f"the model {info.id!r} was a Python object: give it again in `models` or `roles`")
        member = reach.gateway.member(info.id, concurrency=concurrency)
    except UsageError as error:
        gone: Model = Unreachable(info, error)
        return Member(gone, gone, Breaker())
    if member.info == info:
        return member
    return member._replace(primary=Pinned(member.primary, info), last=Pinned(member.last, info))


# Inputs as JSON data and back.


def _packed(value: Any) -> Any:
    """Return a value as JSON data; `_unpacked` restores it."""
    if isinstance(value, File):
        return {_MARK: "file", **value.model_dump(mode="json")}
    if isinstance(value, Asked):
        return {
            _MARK: "asked",
            "text": str(value),
            "system": value.system,
            "files": [file.model_dump(mode="json") for file in value.files],
            "conversation": [list(turn) for turn in value.conversation],
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
        turns = tuple(Turn(*turn) for turn in data.get("conversation", ()))
        return Asked(data["text"], tuple(_file(file) for file in data["files"]), data["system"], turns)
    if kind == "text":
        return FileText(data["text"], data["where"])
    return {key: _unpacked(part) for key, part in (data["of"] if kind == "map" else data).items()}


def _turn(data: Mapping[str, Any]) -> Message:
    files = tuple((at, _file(file)) for at, file in data.get("files", ()))
    return Message.model_validate({**data, "files": files})


def _file(data: Mapping[str, Any]) -> File:
    from base64 import b64decode

    return File(media_type=data["media_type"], data=b64decode(data["data"]), name=data.get("name", ""))
