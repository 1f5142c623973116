"""From ONNX to the graph. The public face is `sdk.graph.from_onnx`."""
