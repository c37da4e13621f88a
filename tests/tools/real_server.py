"""A server of tools made with the protocol's own library: over standard input and output, or HTTP at a port."""

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("real")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def search(query: str, most: int = 2) -> list[str]:
    """Search the archive."""
    return [f"{query} {number}" for number in range(most)]


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("of the tool itself")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run()
