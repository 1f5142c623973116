"""Layers collapse: activations that do little are removed, and the linear layers around them become one."""
