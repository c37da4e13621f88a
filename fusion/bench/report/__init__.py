"""Reports of a benchmark: statistics, tables, plots and gates."""
