"""Batches of providers: calls that are sent together and answered within a day, at a lower price."""
