"""Real clients against `fusion serve`, each in an environment of its own."""
