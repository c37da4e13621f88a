"""Long documents: what it gains to read them part by part."""
