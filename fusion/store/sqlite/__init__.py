"""SQLite: a store in one file."""
