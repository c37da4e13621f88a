"""Tuning: the cheapest way to an author's open choices."""
