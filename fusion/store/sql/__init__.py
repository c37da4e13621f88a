"""SQL: what the stores in databases share."""
