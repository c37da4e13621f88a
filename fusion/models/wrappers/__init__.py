"""Wrappers: models around a model, each adding one ability."""
