"""Maps: the cost of a row, and kills."""
