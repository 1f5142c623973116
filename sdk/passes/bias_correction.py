"""Empirical bias correction: the mean error of every layer's output channels, taken out of its bias.

Rounding weights and clipping activations shift a channel's mean, and a shift adds up through the layers where noise does
not. Layer by layer in order of execution, the mean output before the activation is compared with the float net's, on
the same samples, with everything in front already quantised and corrected (Nagel et al., 2019, their empirical variant).
A layer is linear in front of its activation, so its mean output is its output for the mean input: two small computations each.
Both means are of the very same samples: means of two draws differ by far more than quantisation moves them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sdk.data import Calibration
from sdk.graph.interpreter import batch_count, compute, compute_batch
from sdk.graph.ir import Graph, Node
from sdk.graph.quantmath import dequantise_array, quantise_array
from sdk.passes.calibrate import WEIGHT_AXIS, runs

_BUDGET_BYTES = 256 << 20


def correct_biases(graph: Graph, quantised: Graph, calibration: Calibration) -> Graph:
    """`quantised` with corrected biases. `graph` is the float graph it was made of.

    Only layers that have an int32 or int64 bias of their own are corrected.
    """
    real = {node.name: node for node in graph.nodes}
    last = {name: i for i, node in enumerate(quantised.nodes) for name in node.inputs}
    samples = calibration.spread(sample_count(quantised))
    means, values = _mean_inputs(graph, samples), _inputs(graph, quantised, samples)
    batches = batch_count(graph, values)
    for index, node in enumerate(quantised.nodes):
        mean = means.get(real[node.name].inputs[0]) if node.name in real else None
        if mean is not None and _correctable(quantised, node):
            quantised = _corrected(graph, quantised, real[node.name], node, mean, values[node.inputs[0]])
        values.update(zip(node.outputs, compute_batch(quantised, node, values, batches), strict=True))
        for name in {n for n in node.inputs if n in values and last[n] <= index}:
            del values[name]
    return quantised


def _mean_inputs(graph: Graph, samples: Calibration) -> dict[str, np.ndarray]:
    """Float tensor that a layer with weights reads -> its mean [1, ...] over the samples."""
    total: dict[str, np.ndarray] = {}
    names = {node.inputs[0] for node in graph.nodes if node.op in WEIGHT_AXIS and not graph[node.inputs[0]].is_const}
    for count, values in runs(graph, samples):
        for name in names:
            total[name] = np.asarray(total.get(name, 0.0) + mean_sample(values[name]) * (count / samples.count))
    return total


def sample_count(graph: Graph) -> int:
    """Samples whose live values fit the memory budget, at most 128: means need no more."""
    live = [[graph[n].size for n in (*node.inputs, *node.outputs) if n and not graph[n].is_const] for node in graph.nodes]
    widest = max(map(sum, live), default=1)
    return int(max(1, min(128, _BUDGET_BYTES // max(8 * widest, 1))))  # the interpreter sums in 8 bytes a value


def _inputs(graph: Graph, quantised: Graph, calibration: Calibration) -> dict[str, np.ndarray]:
    """Every sample at once, in the quantised graph's input types: name -> [samples, ...]."""
    batch = next(calibration.batches(calibration.count))
    return {name: quantised_input(quantised, name, value) for name, value in batch.items()}


def quantised_input(graph: Graph, name: str, value: np.ndarray) -> np.ndarray:
    """Float samples in the type of input `name` of a quantised graph."""
    tensor = graph[name]
    if tensor.quant is None or value.dtype != np.float32:
        return value
    return quantise_array(value, tensor.scale, tensor.zero_point, tensor.dtype)


def _correctable(graph: Graph, node: Node) -> bool:
    if node.op not in WEIGHT_AXIS or len(node.inputs) < 3 or not node.inputs[2]:
        return False
    return graph[node.inputs[2]].dtype in ("int32", "int64") and graph[node.inputs[1]].quant is not None


def _corrected(graph: Graph, quantised: Graph, real: Node, node: Node, mean: np.ndarray, x: np.ndarray) -> Graph:
    """The graph with the bias of `node` moved by the mean error; `mean` [1, ...] is the float input's, `x` the integers' samples."""
    tensor, weight, bias = (quantised[name] for name in node.inputs[:3])
    if tensor.quant is None or weight.quant is None or bias.quant is None or bias.data is None or weight.data is None:
        return quantised
    mean_q = (mean_sample(x) - tensor.zero_point) * tensor.scale
    target = mean_output(graph, real, mean, graph[real.inputs[1]].data, graph[real.inputs[2]].data)
    scale = np.asarray(bias.quant.scale, np.float64)
    now = mean_output(graph, real, mean_q, dequantise_array(weight.data, weight.quant), np.asarray(bias.data * scale))
    steps = np.rint((target - now) / scale)
    limit = 2.0**31 - 1 if bias.dtype == "int32" else 2.0**46
    moved = np.clip(bias.data + steps, -limit, limit).astype(bias.data.dtype)
    return quantised.with_nodes(quantised.nodes, {**quantised.tensors, bias.name: replace(bias, data=moved)})


def mean_sample(x: np.ndarray) -> np.ndarray:
    """[1, ...] float64 mean over the first dimension."""
    return np.asarray(np.mean(x, axis=0, keepdims=True, dtype=np.float64))


def mean_output(graph: Graph, node: Node, x: np.ndarray, w: np.ndarray | None, b: np.ndarray | None) -> np.ndarray:
    """[O] mean over positions of the layer's output before its activation, for one mean sample x [1, ...]."""
    assert w is not None and b is not None  # with_bias gave every layer a bias
    plain = node.with_attrs(activation="none")
    values = {node.inputs[0]: x.astype(np.float32), node.inputs[1]: w.astype(np.float32), node.inputs[2]: b.astype(np.float32)}
    (y,) = compute(graph, plain, values)
    return y.reshape(-1, y.shape[-1]).mean(0, dtype=np.float64)
