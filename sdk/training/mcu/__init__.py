"""Training on a microcontroller: from an inference graph to a graph of one training step, planned and compiled like any other."""
