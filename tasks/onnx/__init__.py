"""Make ONNX files: export networks, build the graphs of one network by hand, and quantize to int8."""
