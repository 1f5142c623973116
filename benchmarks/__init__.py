"""Benchmarks: each measures and prints, none asserts. `python -m benchmarks.<name>` [--json] [--plot]."""
