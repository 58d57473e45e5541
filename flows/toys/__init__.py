"""The talk's examples as Prefect flows, one per file: from one neuron to discounted rewards."""
