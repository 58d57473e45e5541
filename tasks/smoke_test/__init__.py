"""Use a model in a fresh process, as those will who rely on it, and compare it with what it was."""
