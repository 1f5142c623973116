"""2:4 sparsity: of every four weights along the input channels two are zero. TensorRT's sparse kernels take such layers, and only such."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdk.backends.tensorrt.graph import weight_axis, wires


def is_sparse(weights: np.ndarray) -> bool:
    """True where every four neighbours along axis 1 (input channels) hold at most two non-zeros; weights [out, in, ...].

    `is_sparse(np.array([[1, 0, 0, 2]]))` is True. Fewer than four input channels cannot be sparse.
    """
    if weights.ndim < 2 or weights.shape[1] < 4 or weights.shape[1] % 4:
        return False
    groups = np.moveaxis(weights, 1, -1).reshape(-1, 4)
    return bool((np.count_nonzero(groups, axis=1) <= 2).all())


def sparse_layers(model: Any) -> tuple[int, int]:
    """(layers whose stored weights are 2:4 sparse, layers with stored weights) of a float ModelProto."""
    w = wires(model.graph)
    layers = [n for n in model.graph.node if weight_axis(n) is not None and n.input[1] in w.stored]
    return sum(is_sparse(_outputs_first(w.array(n.input[1]), weight_axis(n))) for n in layers), len(layers)


def _outputs_first(weights: np.ndarray | None, axis: int | None) -> np.ndarray:
    assert weights is not None
    return weights if axis == 0 else np.swapaxes(weights, 0, 1)
