"""Core: the values, errors, events and settings that every other package imports."""
