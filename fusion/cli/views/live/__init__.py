"""A run as it happens: followed on a thread of its own, and shown on a terminal, as lines or as NDJSON."""
