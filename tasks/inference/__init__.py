"""The exported model: graphs, backends, predictions."""
