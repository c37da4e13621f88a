"""Guard: callers, hosts, origins and bounds, checked before anything of a request is used."""
