"""Make the model of a decision again, from what the ledger records, and compare."""
