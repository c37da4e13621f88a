"""Quotes: quoted cost and time against those of the run."""
