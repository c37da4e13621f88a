"""A pipeline file: read, checked, drawn, explained."""
