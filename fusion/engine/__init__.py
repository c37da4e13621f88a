"""The engine: runs a pipeline, and records the run."""
