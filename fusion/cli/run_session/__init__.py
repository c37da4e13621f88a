"""Session of one run: its gates and its end."""
