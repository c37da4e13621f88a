"""Doctor: checks of the installation, the keys, the servers, the store and the settings, one line each."""

from fusion.client.doctor.check import Check as Check
from fusion.client.doctor.doctor import examine as examine
