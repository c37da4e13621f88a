"""PostgreSQL: a store in a schema of a database, shared by machines."""
