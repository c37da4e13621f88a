"""Providers: access to hosted, embedded, recorded and scripted models."""
