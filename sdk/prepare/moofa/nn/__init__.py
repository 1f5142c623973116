"""The supernet and its subnets in torch."""
