"""Operations: models, health, metrics and quotes, beside the APIs that make runs."""
