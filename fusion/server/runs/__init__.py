"""Runs that answer requests: begun, attached to, resumed and replayed."""
