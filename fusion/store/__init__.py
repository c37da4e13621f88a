"""The store of runs: the journal of their calls, the ledger of their attempts, the cache, and the history."""
