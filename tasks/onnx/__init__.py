"""ONNX files: exported, built by hand for one network, quantized."""
