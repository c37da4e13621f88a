"""Servers of tools: started or reached by the Model Context Protocol, and shared by all runs."""

from fusion.tools.mcp.server import Server as Server
