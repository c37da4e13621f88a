"""Subtasks: read from a plan, worked on their sections of the material, and combined by code."""
