"""Listener: the socket, its connections, and the signals that end the server."""
