"""History as text: runs and maps, one of them, or two of them compared."""
