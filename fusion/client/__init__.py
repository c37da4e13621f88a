"""The Python door: `Fusion`, its options, handles and history."""
