"""Losses and double payments after a run is killed."""
