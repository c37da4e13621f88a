"""Weather: rate limits, outages and faults of a server on loopback, and the time and items that they cost."""
