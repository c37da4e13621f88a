"""Sessions of `fusion bench` and `fusion tune`: from the options to the exit code."""
