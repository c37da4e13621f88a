"""Profiles: named sets of model chains for the roles, with the keys, regions and families of their models."""

from fusion.models.profiles.profiles import choose as choose
from fusion.models.profiles.profiles import family_of as family_of
from fusion.models.profiles.profiles import is_shipped as is_shipped
from fusion.models.profiles.profiles import keys_for as keys_for
from fusion.models.profiles.profiles import load_profiles as load_profiles
from fusion.models.profiles.profiles import missing_keys as missing_keys
from fusion.models.profiles.profiles import Profile as Profile
from fusion.models.profiles.profiles import provider_at as provider_at
from fusion.models.profiles.profiles import region_of as region_of
from fusion.models.profiles.profiles import seat_of as seat_of
