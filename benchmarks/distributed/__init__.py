"""Maps on many nodes: kills, caps, overhead, and a model of more nodes than a test can start."""
