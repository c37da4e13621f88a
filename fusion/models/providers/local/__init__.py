"""Embedded models: weights, downloads and servers of llama.cpp."""
