"""Which model serves: the ledger and the comparison."""
