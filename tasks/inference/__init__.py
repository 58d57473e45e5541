"""Use an exported model: predict with ONNX Runtime, explain predictions, and compare files."""
