"""Benchmarks: the costs and gains of Fusion, measured."""
