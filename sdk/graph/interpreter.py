"""Runs a graph in numpy, node after node: the definition that every pass, kernel and board is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sdk.errors import DataError
from sdk.graph.ir import Graph, Node, Tensor
from sdk.graph.ops import OPS, written

Inputs = Mapping[str, np.ndarray] | Sequence[np.ndarray]


def run(graph: Graph, inputs: Inputs, keep: bool = False) -> dict[str, np.ndarray]:
    """Outputs by name; with `keep` every tensor that was computed.

    `inputs` by name, or in the order of `graph.inputs`. They may hold more samples than the graph declares: a graph for one
    image [1, 32, 32, 3] takes [100, 32, 32, 3] and gives 100 results, the same as one by one, joined along dimension 0.
    Variables start at their initial value in every run. Raises DataError for a wrong name, shape or type.
    """
    values = _named(graph, inputs)
    batches = batch_count(graph, values)
    if not any(t.variable for t in graph.tensors.values()):
        return _run_once(graph, values, keep, batches)
    runs = [_run_once(graph, {n: _part(graph[n], v, batches, i) for n, v in values.items()}, keep) for i in range(batches)]
    return {name: _joined([r[name] for r in runs]) for name in runs[0]}


def step(
    graph: Graph, inputs: Inputs, variables: Mapping[str, np.ndarray] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(outputs, variables afterwards) of one run on inputs of exactly the declared shapes, as a board that keeps its state computes it.

    `variables`: where each starts, its initial value where it is not named. Feeding one step's variables to the next is training:

        outputs, state = step(graph, {"x": x, "label": label})
        outputs, state = step(graph, {"x": x2, "label": label2}, state)
    """
    values = _named(graph, inputs)
    if batch_count(graph, values) != 1:
        raise DataError(f"one step of {graph.name} takes one sample in each input; call it once for each")
    unknown = sorted(n for n in variables or {} if n not in graph.tensors or not graph[n].variable)
    if unknown:
        raise DataError(f"{graph.name} has no variable {unknown[0]!r}; give values of its variables only")
    state = initial_variables(graph) | dict(variables or {})
    values = _run_once(graph, {**state, **values}, True)
    return {name: values[name] for name in graph.outputs}, {name: values[name] for name in state}


def initial_variables(graph: Graph) -> dict[str, np.ndarray]:
    """Every variable at the value it starts with."""
    return {t.name: np.zeros(t.shape, t.dtype) if t.data is None else t.data for t in graph.tensors.values() if t.variable}


def _run_once(graph: Graph, inputs: Mapping[str, np.ndarray], keep: bool, batches: int = 1) -> dict[str, np.ndarray]:
    values = initial_variables(graph)
    values.update(inputs)
    last = _last_reader(graph)
    for index, node in enumerate(graph.nodes):
        values.update(zip(written(node), compute_batch(graph, node, values, batches), strict=True))
        if not keep:
            for name in {n for n in (*node.inputs, *node.outputs) if last.get(n, index) == index and n not in graph.outputs}:
                values.pop(name, None)
    names = dict.fromkeys((*values, *graph.outputs)) if keep else graph.outputs
    return {name: _repeated(graph, values, name, batches) for name in names}


def _repeated(graph: Graph, values: Mapping[str, np.ndarray], name: str, batches: int) -> np.ndarray:
    """The value of `name`; what no input reaches is the same for every sample."""
    value = values.get(name, graph[name].data)
    assert value is not None  # the graph checked that every output has a value
    alike = batches > 1 and value.shape == graph[name].shape and not graph[name].is_const
    return _joined([value] * batches) if alike else value


def compute(graph: Graph, node: Node, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Values of one node's outputs, given those of its inputs (constants come from the graph)."""
    return OPS[node.op].compute(node, graph.tensors, values)


def compute_batch(graph: Graph, node: Node, values: Mapping[str, np.ndarray], batches: int) -> tuple[np.ndarray, ...]:
    """`compute` on values that hold `batches` samples, one behind the other along dimension 0; those of the declared shape
    belong to every sample. At once where the op treats dimension 0 as independent rows, else sample by sample."""
    moving = {n for n in node.inputs if n in values and values[n].shape != graph[n].shape}
    if batches == 1 or not moving or _keeps_samples(graph, node, moving):
        return compute(graph, node, values)
    parts = [compute(graph, node, {**values, **{n: _part(graph[n], values[n], batches, i) for n in moving}}) for i in range(batches)]
    return tuple(_joined([part[k] for part in parts]) for k in range(len(parts[0])))


def _part(tensor: Tensor, value: np.ndarray, batches: int, index: int) -> np.ndarray:
    """Sample `index` of `batches` in the declared shape."""
    return value.reshape(batches, *tensor.shape)[index]


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts[0].ndim else np.stack(parts)


def _last_reader(graph: Graph) -> dict[str, int]:
    return {name: index for index, node in enumerate(graph.nodes) for name in node.inputs if name}


def _named(graph: Graph, inputs: Inputs) -> dict[str, np.ndarray]:
    """Inputs by name, with their types and shapes checked."""
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(graph.inputs):
            raise DataError(f"{graph.name} takes {len(graph.inputs)} inputs and {len(inputs)} were given; give {', '.join(graph.inputs)}")
        inputs = dict(zip(graph.inputs, inputs, strict=True))
    wrong = set(inputs) ^ set(graph.inputs)
    if wrong:
        raise DataError(f"{graph.name} takes the inputs {', '.join(graph.inputs)}; {sorted(wrong)[0]!r} is missing or not one of them")
    values = {name: np.asarray(inputs[name]) for name in graph.inputs}
    for name, value in values.items():
        tensor = graph[name]
        if str(value.dtype) != tensor.dtype:
            raise DataError(f"input {name} is {tensor.dtype} and the array given is {value.dtype}; convert or quantise it first")
        if value.shape[1:] != tensor.shape[1:] or value.ndim != len(tensor.shape):
            raise DataError(f"input {name} has shape {list(tensor.shape)} and the array given {list(value.shape)}; only the first number may be larger")
    return values


def batch_count(graph: Graph, values: Mapping[str, np.ndarray]) -> int:
    """How many times the declared batch the inputs hold."""
    ratios = {value.shape[0] / graph[name].shape[0] for name, value in values.items() if value.ndim and graph[name].shape[0]}
    if len(ratios) > 1 or any(r != int(r) or r < 1 for r in ratios):
        raise DataError(f"the inputs hold {sorted(ratios)} batches; give every input the same whole number of them, at least one")
    return int(ratios.pop()) if ratios else 1


def _keeps_samples(graph: Graph, node: Node, moving: set[str]) -> bool:
    """True when the node treats the index of dimension 0 of its `moving` inputs as a row of its own, so that more rows can go
    through at once; its other inputs are the same for every sample."""
    entering = [graph[n] for n in node.inputs if n in moving]
    tensors = [*entering, *(graph[n] for n in node.outputs)]
    fixed = [graph[n] for n in node.inputs if n and n not in moving]
    if node.op == "reshape":
        return bool(tensors[0].shape and tensors[1].shape)
    if any(not t.shape or t.shape[0] != tensors[0].shape[0] for t in tensors) or len({len(t.shape) for t in entering}) > 1:
        return False
    rank = len(tensors[0].shape)
    match node.op:
        case "transpose":
            return node.attrs["perm"][0] == 0
        case "concat":
            return node.attrs["axis"] % rank != 0 and not fixed
        case "gather":
            return node.inputs[0] in moving and node.inputs[1] not in moving and node.attrs["axis"] % rank != 0
        case "softmax" | "log_softmax" | "argmax":
            return node.attrs.get("axis", -1) % rank != 0
        case "mean" | "sum" | "reduce_max":
            axes = node.attrs.get("axes")
            return axes is not None and all(a % rank for a in axes)
        case "pad":
            return tuple(node.attrs["paddings"][0]) == (0, 0)
        case "slice":
            return (node.attrs["begin"][0], node.attrs["end"][0], (node.attrs.get("strides") or (1,))[0]) == (0, tensors[0].shape[0], 1)
        case "tile":
            return node.attrs["multiples"][0] == 1
        case "layer_norm" | "batch_norm" | "dense":
            return rank > 1 and node.inputs[0] in moving and not moving.intersection(node.inputs[1:])
        case "conv2d" | "depthwise_conv2d":
            return not moving.intersection(node.inputs[1:])
        case "batch_matmul":
            return rank > 2 and len(tensors[-1].shape) == rank and all(len(t.shape) < rank or t.shape[0] == 1 for t in fixed)
        case "opaque":
            return False
    return len(tensors[-1].shape) == rank and all(len(t.shape) < rank or t.shape[0] == 1 for t in fixed)
