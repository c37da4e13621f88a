"""Cast: which model plays which role, as far as the user, the profile and the settings say so."""

import copy
import threading
from collections.abc import Mapping
from dataclasses import replace

from fusion.core.config import Settings
from fusion.core.errors import UsageError
from fusion.core.params import Defaults, RoleSpec
from fusion.models.base import Model
from fusion.models.gateway import Gateway
from fusion.models.profiles import Profile, choose
from fusion.record import Made, Record
from fusion.roles import RoleModels, resolve, used_roles

RoleGiven = str | Model | RoleSpec
"""A model's id, a model, or a chain with its terms."""


class Cast:
    """The models of one Fusion. `own` are the ids of those that are objects of the user's."""

    def __init__(
        self,
        settings: Settings,
        gateway: Gateway,
        *,
        models: Mapping[str, Model],
        profile: str | None,
        roles: Mapping[str, RoleGiven],
        model: RoleGiven | None,
    ) -> None:
        self.settings = settings
        self.gateway = gateway
        self.own = {*models}
        self.profile_given = profile
        self._lock = threading.Lock()
        self._roles = {role: self.spec(given) for role, given in roles.items()}
        self._model = None if model is None else self.spec(model)

    @property
    def profile(self) -> Profile:
        """The profile in use: as given, else by FUSION_PROFILE, else by the keys that are set, else `local`."""
        return choose(self.settings, self.profile_given)

    def changed(
        self,
        *,
        profile: str | None,
        roles: Mapping[str, RoleGiven] | None,
        model: RoleGiven | None,
        defaults: Defaults | None,
    ) -> "Cast":
        """Another cast on the same gateway; what is not given stays as it is."""
        other = copy.copy(self)
        if profile is not None:
            other.profile_given = profile
        if roles is not None:
            other._roles = {role: self.spec(given) for role, given in roles.items()}
        if model is not None:
            other._model = self.spec(model)
        if defaults is not None:
            both = defaults.over(self.settings.defaults)
            other.settings = self.settings.model_copy(update={"defaults": both})
        return other

    def spec(self, given: RoleGiven) -> RoleSpec:
        """Who plays a role, in its full form. A model of the user's becomes known under its id."""
        if isinstance(given, RoleSpec):
            return given
        if isinstance(given, Model):
            self.gateway.add(given)
            self.own.add(given.info.id)
            return RoleSpec(chain=(given.info.id,))
        return RoleSpec(chain=(given,))

    def with_defaults(self, made: Made) -> Made:
        """The pipeline, with the defaults of the user's settings beneath its own."""
        defaults = made.pipeline.defaults.over(self.settings.defaults)
        return replace(made, pipeline=made.pipeline.model_copy(update={"defaults": defaults}))

    def of(self, made: Made, before: Record | None = None) -> RoleModels:
        """The models of a pipeline. Where nothing else is said, those of the run that is gone back to.

        Raises UsageError or MissingKeyError for what cannot be.
        """
        given = self._given(made, before)
        with self._lock:
            return resolve(
                made.pipeline,
                given=given,
                profile=self.profile,
                gateway=self.gateway,
                settings=self.settings,
                own=self.own,
                nested=made.nested,
            )

    def _given(self, made: Made, before: Record | None) -> dict[str, RoleSpec]:
        pipeline = made.pipeline
        used = used_roles(pipeline, made.nested)
        unknown = sorted(set(self._roles) - {*used, *pipeline.roles, *self.settings.roles, *self.profile.roles})
        if unknown:
            raise UsageError(f"no role {unknown[0]!r} in {pipeline.name!r}; it has: {', '.join(sorted(used))}")
        everywhere = {} if self._model is None else dict.fromkeys(used, self._model)
        of_before = {} if before is None or self.profile_given else before.undeclared
        return {**of_before, **everywhere, **self._roles}
