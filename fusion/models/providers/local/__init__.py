"""Models embedded by llama.cpp."""
