"""An MCP server whose tools are the pipelines that are served."""
