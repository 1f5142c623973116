"""Native: the model as a shared library of our own C kernels for each kind of machine, where no engine's wheel exists."""

from __future__ import annotations

from sdk.backends.native.backend import emit, error_report, graph_of, peak_memory, refusal

__all__ = ["emit", "error_report", "graph_of", "peak_memory", "refusal"]
