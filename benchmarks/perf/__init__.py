"""The speed of the engine itself: each module is one benchmark, `python -m benchmarks.perf.<name>`."""
