"""The words that every room speaks; imports nothing else of Fusion."""
