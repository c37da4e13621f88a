"""Bounded work: time limits for work on text that a model or a stranger wrote."""
