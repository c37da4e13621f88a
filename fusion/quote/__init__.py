"""Previews, quotes and bounds of a run, before any call."""
