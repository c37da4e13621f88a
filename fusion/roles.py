"""Which model plays which role in a run: the user's word, then the pipeline's, then the profile's."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fusion.config import Settings
from fusion.errors import MissingKeyError, UsageError
from fusion.library import close_names
from fusion.models import prices
from fusion.models.base import Model
from fusion.models.gateway import Gateway
from fusion.models.profiles import Profile, key_for
from fusion.models.replay import PREFIX
from fusion.spec import Pipeline, RoleSpec

__all__ = ["RoleModel", "RoleModels", "resolve", "unpriced", "used_roles"]

_AS = "; write it as provider/model, such as openai/gpt-5.6"


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
            _check_reachable(role, model_id, settings)
        model = gateway.model(model_id, concurrency=spec.concurrency)
        roles[role] = RoleModel(model, spec.temperature, spec.timeout)
    return RoleModels(roles, gateway)


def unpriced(roles: Mapping[str, RoleModel]) -> Iterator[str]:
    """What is to be said of each model whose price nobody knows."""
    for model_id in dict.fromkeys(role.model.info.id for role in roles.values() if role.model.info.price is None):
        near = _near(model_id) if prices.reachable(model_id) and not prices.known(model_id) else ""
        yield (
            f"no price is known for {model_id!r}: its cost is not counted, nor held by a limit in dollars; "
            f"limit `tokens` or `calls`{near}"
        )


def _check_reachable(role: str, model_id: str, settings: Settings) -> None:
    """Refuse a model that no provider can have, or whose provider's key is not set."""
    info = prices.lookup(model_id)
    if info.local or model_id.startswith(PREFIX):  # the gateway knows which of those there are
        return
    if not prices.reachable(model_id):
        raise UsageError(f"role {role!r}: no provider is known for the model {model_id!r}{_near(model_id) or _AS}")
    key = key_for(info.provider)
    if key is not None and key not in settings.keys:
        raise MissingKeyError(
            f"role {role!r} needs {model_id!r}, and {key} is not set. Set it, or choose another profile: "
            "`--profile local` runs on embedded models without any key (`fusion models pull small strong`)"
        )


def _near(model_id: str) -> str:
    names = " or ".join(repr(name) for name in prices.suggest(model_id))
    return f"; did you mean {names}?" if names else ""
