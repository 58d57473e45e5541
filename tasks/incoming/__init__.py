"""Take in new images from incoming/: check their labels with the model, and ingest them."""
