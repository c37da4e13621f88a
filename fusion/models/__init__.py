"""Models: one interface, the providers behind it, and the wrappers around it."""
