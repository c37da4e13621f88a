"""Templates become messages, expressions become values."""
