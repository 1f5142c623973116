"""From a torch module to the graph, through `torch.export`. The public face is `sdk.graph.from_torch`."""
