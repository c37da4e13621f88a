"""Dialects: the APIs that clients speak, each read into one request and written from one run."""
