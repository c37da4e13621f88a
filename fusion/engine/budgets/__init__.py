"""Budgets of a run: those of its pipelines and stages, and what is held back for the last ones."""
