"""Page: runs, maps and benchmarks in a browser, and the JSON behind it."""
