"""Scorers: score an answer against its gold answer, without a judge."""
