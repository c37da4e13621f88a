"""Judgement of answers: checks, their runs in the sandbox, judges, and labels that hide the authors."""
