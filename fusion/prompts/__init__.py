"""Prompts: templates that render messages, and expressions that compute values."""
