"""What Fusion costs and what it gains, measured."""
