"""Cascades: savings and losses, on recorded answers of real models."""
