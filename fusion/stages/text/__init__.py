"""Text: JSON taken out of replies, checks, chunks, languages, continuations."""
