"""Settings of the user: the tables of fusion.toml, its reading, the trust in a project's file."""

from fusion.core.config.environment import Wire as Wire
from fusion.core.config.environment import variable as variable
from fusion.core.config.sandbox import SandboxTable as SandboxTable
from fusion.core.config.secrets import Watch as Watch
from fusion.core.config.secrets import is_padded as is_padded
from fusion.core.config.secrets import secret as secret
from fusion.core.config.secrets import secrets as secrets
from fusion.core.config.server import ServedTable as ServedTable
from fusion.core.config.server import ServerTable as ServerTable
from fusion.core.config.settings import Settings as Settings
from fusion.core.config.settings import cache_folder as cache_folder
from fusion.core.config.settings import user_folder as user_folder
from fusion.core.config.tables import Ceilings as Ceilings
from fusion.core.config.tables import Endpoint as Endpoint
from fusion.core.config.tables import SettingsFile as SettingsFile
from fusion.core.config.tables import StoreTable as StoreTable
from fusion.core.config.tables import Tariff as Tariff
from fusion.core.config.tools import McpServer as McpServer
from fusion.core.config.tools import PythonRules as PythonRules
