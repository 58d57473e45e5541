"""The talk's examples, one idea a file: from one neuron to gradient descent."""
