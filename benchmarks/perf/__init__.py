"""The speed of the engine: each module is one benchmark, `python -m benchmarks.perf.<name>`."""
