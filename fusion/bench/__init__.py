"""Benchmarks: arms measured on the same items, scored without a judge, compared with intervals, and reported."""
