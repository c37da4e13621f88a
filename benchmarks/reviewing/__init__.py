"""Reviewing: accuracy of a reviewer's verdicts, and its resistance to answers that address it."""
