"""Which model plays which role in a run: the user's word, then the pipeline's, then the profile's."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fusion.config import Settings
from fusion.errors import MissingKeyError, UsageError
from fusion.library import close_names
from fusion.models.base import Model
from fusion.models.gateway import Gateway
from fusion.models.profiles import Profile, key_for
from fusion.spec import Pipeline, RoleSpec

__all__ = ["RoleModel", "RoleModels", "resolve", "used_roles"]


@dataclass(frozen=True, slots=True)
class RoleModel:
    """The model behind a role, and how it is called."""

    model: Model
    temperature: float | None = None
    timeout: float | None = None


class RoleModels(Mapping[str, RoleModel]):
    """The models of a run by role."""

    def __init__(self, roles: Mapping[str, RoleModel], gateway: Gateway) -> None:
        self._roles = dict(roles)
        self._gateway = gateway
        self._by_id = {role.model.info.id: role.model for role in self._roles.values()}

    def __getitem__(self, role: str) -> RoleModel:
        return self._roles[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)

    def model(self, model_id: str) -> Model:
        """A model of this run by its id."""
        return self._by_id.get(model_id) or self._gateway.model(model_id)


def used_roles(pipeline: Pipeline) -> dict[str, str]:
    """Every role that the pipeline's stages name, and where."""
    used: dict[str, str] = {}
    for name, stage in pipeline.stages.items():
        for key, role in stage.roles():
            used.setdefault(role, f"stages.{name}.{key}")
    return used


def resolve(
    pipeline: Pipeline,
    *,
    given: Mapping[str, RoleSpec],
    profile: Profile,
    gateway: Gateway,
    settings: Settings,
    own: Iterable[str] = (),
) -> RoleModels:
    """The model of every role that the pipeline uses. Raises UsageError or MissingKeyError before any call."""
    roles = {}
    for role, where in used_roles(pipeline).items():
        spec = given.get(role) or pipeline.roles.get(role)
        if spec is None and role in profile.roles:
            spec = RoleSpec(chain=(profile.roles[role],))
        if spec is None:
            known = {*given, *pipeline.roles, *profile.roles}
            raise UsageError(
                f"{where}: no role {role!r} in the pipeline or profile {profile.name!r}{close_names(role, known)}"
            )
        model_id = spec.chain[0]
        if model_id not in own:
            _check_key(role, model_id, settings)
        model = gateway.model(model_id, concurrency=spec.concurrency)
        roles[role] = RoleModel(model, spec.temperature, spec.timeout)
    return RoleModels(roles, gateway)


def _check_key(role: str, model_id: str, settings: Settings) -> None:
    key = key_for(model_id)
    if key is not None and key not in settings.keys:
        raise MissingKeyError(
            f"role {role!r} needs {model_id!r}, and {key} is not set. Set it, or choose another profile: "
            "`--profile local` runs on embedded models without any key (`fusion models pull small strong`)"
        )
