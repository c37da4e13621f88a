"""Names of OpenRouter's Fusion on the wire."""

from typing import Final

ALIASES: Final = ("openrouter/fusion", "openrouter/fusion:latest")
"""Names of a model that stand for the plug-in."""
TOOL: Final = "openrouter:fusion"
"""Type of the server tool, and of its item in the output."""
PLUGIN: Final = "fusion"
DEPTH: Final = "x-openrouter-fusion-depth"
"""Header of a request that a panel of another server makes."""
