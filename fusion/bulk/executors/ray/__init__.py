"""Ray: runs rows of a map on the nodes of a Ray cluster, one actor a node."""
