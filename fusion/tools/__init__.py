"""Tools that stages call by name: functions, tools of MCP servers, and others behind one interface."""
