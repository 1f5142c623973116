"""Checks a graph as a whole: shapes, types, quantisation, values. One sentence names the first thing that is wrong."""

from __future__ import annotations

import numpy as np

from sdk.errors import ModelError
from sdk.graph import quantmath as qm
from sdk.graph.ir import Graph, Node, Tensor
from sdk.graph.ops import OPS
from sdk.graph.ops.base import make_use

#: More values than this in one tensor is a mistake in the file, not a model.
MAX_VALUES = 2**31 - 1
#: Scales of activations lie between this and its inverse, so that ratios and products of them stay finite in float32.
MIN_SCALE = 2.0**-40


def verify(graph: Graph) -> None:
    """Nothing when the graph is sound. Raises ModelError with what is wrong, where, and the mend."""
    if not graph.inputs or not graph.outputs:
        raise ModelError(f"{graph.name} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; a model needs at least one of each")
    for tensor in graph.tensors.values():
        check_tensor(tensor)
    for name in graph.inputs:
        _check_input(graph[name])
    for node in graph.nodes:
        check_node(graph, node)


def _check_input(tensor: Tensor) -> None:
    if tensor.is_const:
        raise ModelError(f"input {tensor.name} is a constant; an input has no data")
    if any(d == 0 for d in tensor.shape):
        raise ModelError(f"input {tensor.name} has shape {list(tensor.shape)}; export the model with fixed sizes, batch included")


def check_tensor(tensor: Tensor) -> None:
    """Size, finite values, and zero points within the type's range."""
    size = 1
    for d in tensor.shape:
        size *= d  # Python's integers: a damaged shape must not overflow
    if size > MAX_VALUES:
        raise ModelError(f"tensor {tensor.name} has shape {list(tensor.shape)}, more than 2**31 values; the file is damaged or not for such devices")
    data = tensor.data
    if data is not None and tensor.dtype == "float32" and not np.isfinite(data).all():
        raise ModelError(f"constant {tensor.name} holds NaN or infinite values; train or export the model again")
    if tensor.quant is not None and tensor.dtype in qm.RANGE:
        low, high = qm.RANGE[tensor.dtype]
        if not all(low <= z <= high for z in tensor.quant.zero_point):
            raise ModelError(f"tensor {tensor.name} is {tensor.dtype} and has a zero point outside {low}..{high}; quantise the model again")
        if data is None and not all(MIN_SCALE <= s <= 1 / MIN_SCALE for s in tensor.quant.scale):
            raise ModelError(f"tensor {tensor.name} has the scale {tensor.quant.scale[0]:g}, which no real value needs; quantise the model again")


def check_node(graph: Graph, node: Node) -> None:
    """The op exists, its inputs fit it, its outputs are declared as it computes them."""
    op = OPS.get(node.op)
    if op is None:
        raise ModelError(f"node {node.name} asks for the op {node.op!r}, which does not exist; `embarq ops` lists those that do")
    given = op.infer(node, graph.tensors)
    if len(given) != len(node.outputs):
        raise ModelError(f"node {node.name} ({node.op}) has {len(node.outputs)} outputs and gives {len(given)}; name every output once")
    for name, (shape, dtype) in zip(node.outputs, given, strict=True):
        tensor = graph[name]
        if (tensor.shape, tensor.dtype) != (shape, dtype):
            raise ModelError(f"node {node.name} ({node.op}) gives {dtype}{list(shape)} and {name} is declared {tensor.dtype}{list(tensor.shape)}")
    if node.op == "opaque":
        return
    for name in op.updated(node):
        if not graph[name].variable:
            raise ModelError(f"node {node.name} ({node.op}) changes {name}, which is not a variable; make it one")
    first = make_use(node, graph.tensors).input(0)
    if first.dtype not in op.dtypes:
        raise ModelError(f"node {node.name} ({node.op}) has a {first.dtype} input and is defined for {', '.join(op.dtypes)}; convert or quantise it")
    if op.quantised:
        _check_quant(graph, node)
    reason = op.check(node, graph.tensors)
    if reason:
        raise ModelError(f"node {node.name} ({node.op}): {reason}")


def _check_quant(graph: Graph, node: Node) -> None:
    for name in (*node.inputs, *node.outputs):
        tensor = graph.tensors.get(name)
        if tensor is not None and tensor.dtype in ("int8", "int16") and tensor.quant is None:
            raise ModelError(f"tensor {name} of node {node.name} ({node.op}) is {tensor.dtype} without scale and zero point; quantise the model again")
        if tensor is not None and tensor.dtype == "int16" and tensor.quant is not None and any(tensor.quant.zero_point):
            raise ModelError(f"int16 tensor {name} has a zero point other than 0; int16 values are symmetric, quantise the model again")
