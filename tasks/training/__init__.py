"""The training loop and its parts are in this package; tasks/train.py uses them."""
