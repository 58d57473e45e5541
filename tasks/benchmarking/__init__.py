"""Measuring: engines in processes of their own, latencies, throughput, a load generator."""
