"""Providers: the doors to the models of others and to embedded ones."""
