"""Views of a map under way: its progress, live or as lines, and its report."""
