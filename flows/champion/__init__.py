"""Decide which model serves: compare, ask a person, keep the champion's file, and publish all of it."""
