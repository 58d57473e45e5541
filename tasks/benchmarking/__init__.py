"""Measure the latency and throughput of inference engines, each in a process of its own."""
