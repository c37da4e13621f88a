"""Mathematical answers compared by value."""
