"""How each family of ops is packed for its C kernels."""
