"""Models: one method, the doors behind it, and the wrappers around it."""
