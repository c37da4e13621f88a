"""Pipeline files: read, checked, drawn, explained."""
