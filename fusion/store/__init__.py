"""What is kept of runs: the journal of their calls, the ledger of their attempts, the cache, and their history."""
