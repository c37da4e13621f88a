"""Scorers: what an answer is worth against its gold answer, without a judge."""
