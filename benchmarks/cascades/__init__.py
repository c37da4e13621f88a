"""What cascades save and lose, on recorded answers of real models."""
