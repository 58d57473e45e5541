"""New images in incoming/: which are ingested, and whose labels the model doubts."""
