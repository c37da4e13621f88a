"""Operations: paths beside those that make runs, such as models, health, metrics and quotes."""
