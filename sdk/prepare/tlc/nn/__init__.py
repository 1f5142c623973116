"""What changes a network in torch: chains found by tracing, activations removed, layers merged."""
