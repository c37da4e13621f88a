"""Python functions: found by name where the settings allow it, described to models, and called."""

from fusion.tools.functions.allowed import Allowed as Allowed
from fusion.tools.functions.function import Function as Function
