"""Search hyperparameters: define the space, choose the next trials, and show the result."""
