"""Decide which model serves: compare models, and keep the decisions in the ledger."""
