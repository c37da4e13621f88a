"""Recorded answers of real models: savings and losses of a policy chosen out of fold."""
