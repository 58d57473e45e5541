"""Measure how often the classifier answers confidently, and how often it is right then."""
