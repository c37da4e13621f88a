"""Hands of stages: tools that a model calls in the middle of its work."""
