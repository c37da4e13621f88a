"""The kinds of stages, one file a kind."""
