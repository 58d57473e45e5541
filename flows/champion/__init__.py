"""Which model serves: comparison, decision, approval, the champion's file, and publishing all of it."""
