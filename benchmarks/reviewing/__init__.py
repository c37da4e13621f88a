"""How well a reviewer tells right from wrong, and what a worker's answer can talk it into."""
