"""Arms of a benchmark: pipelines, single models, recorded outputs, functions."""
