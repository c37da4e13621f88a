"""Figures of the suite of programs."""
