"""Window: gathers the calls of all runs, sends them in batches, and pays for each."""
