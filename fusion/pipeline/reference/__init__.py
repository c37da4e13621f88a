"""Reference of kinds and keys in words, and of pipelines with every key explained."""
