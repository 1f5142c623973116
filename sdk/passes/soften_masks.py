"""Attention masks for integers: as far below the scores as a softmax needs, and no further.

Where a place must not be looked at, a mask adds minus infinity (`MASKED`, in a graph) to its score. Eight bits that reach from
there to the largest score leave one step for all scores, and attention looks everywhere alike. A masked place `span + log(256 n)`
below its own score is `log(256 n)` below the lowest score of all, so that n such places together weigh less than 1/256 of one:
what int8's softmax cannot show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sdk.graph.ir import Graph, Node, Tensor
from sdk.graph.pieces import MASKED
from sdk.graph.quantmath import dequantise_array
from sdk.passes.calibrate import Stats


def soften_masks(graph: Graph, stats: Mapping[str, Stats]) -> Graph:
    """The float graph with every mask's minus infinity as near as the scores that calibration saw allow."""
    values: dict[str, np.ndarray] = {}
    for node, index in masks(graph):
        mask, scores = _data(graph, node.inputs[index]), stats[node.inputs[1 - index]]
        seen = mask[mask > MASKED / 2]
        span = scores.high - scores.low + (float(np.ptp(seen)) if seen.size else 0.0)
        length = graph[node.outputs[0]].shape[-1]
        values[node.name] = np.where(mask > MASKED / 2, mask, -(span + math.log(256 * length))).astype(np.float32)
    return _with_masks(graph, values)


def softened_like(graph: Graph, quantised: Graph) -> Graph:
    """The float graph with the masks that `quantised`, made of it, has: what is left of a difference is rounding."""
    others = {n.name: n for n in quantised.nodes}
    values: dict[str, np.ndarray] = {}
    for node, index in masks(graph):
        theirs, mask = quantised[others[node.name].inputs[index]], _data(graph, node.inputs[index])
        data = _data(quantised, theirs.name)
        real = data if theirs.quant is None else dequantise_array(data, theirs.quant)
        values[node.name] = np.where(mask > MASKED / 2, mask, real).astype(np.float32)
    return _with_masks(graph, values)


def masks(graph: Graph) -> list[tuple[Node, int]]:
    """Additions of a constant with minus infinity whose sum only softmaxes read, and which input the constant is."""
    found: list[tuple[Node, int]] = []
    for node in graph.nodes:
        if node.op == "add" and node.attrs.get("activation", "none") == "none" and _only_softmax(graph, node.outputs[0]):
            found += [(node, i) for i in (0, 1) if _is_mask(graph[node.inputs[i]]) and graph[node.inputs[1 - i]].data is None]
    return found


def _is_mask(tensor: Tensor) -> bool:
    return tensor.is_const and tensor.dtype == "float32" and tensor.data is not None and bool((tensor.data <= MASKED / 2).any())


def _only_softmax(graph: Graph, name: str) -> bool:
    """True when every reader is a softmax over the last dimension, looking through reshapes that keep it."""
    readers, last = graph.consumers[name], graph[name].shape[-1:]
    if name in graph.outputs or not readers:
        return False
    return all(
        (r.op == "softmax" and r.attrs.get("axis", -1) in (-1, len(graph[name].shape) - 1))
        or (r.op == "reshape" and graph[r.outputs[0]].shape[-1:] == last and _only_softmax(graph, r.outputs[0]))
        for r in readers
    )


def _data(graph: Graph, name: str) -> np.ndarray:
    data = graph[name].data
    assert data is not None  # `masks` names constants only
    return data


def _with_masks(graph: Graph, values: Mapping[str, np.ndarray]) -> Graph:
    """The graph with a mask of its own for each of the nodes in `values`."""
    if not values:
        return graph
    tensors, nodes = dict(graph.tensors), []
    where = {node.name: index for node, index in masks(graph)}
    for node in graph.nodes:
        if node.name in values:
            index, name = where[node.name], f"{node.name}.mask"
            while name in tensors:
                name += "_"
            tensors[name] = Tensor(name, values[node.name].shape, "float32", data=values[node.name])
            node = replace(node, inputs=tuple(name if i == index else n for i, n in enumerate(node.inputs)))
        nodes.append(node)
    return graph.with_nodes(nodes, tensors)
