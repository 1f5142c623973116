"""Golden vectors: inputs, and what the graph's own meaning (the interpreter) makes of them, step by step."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdk.errors import UsageError
from sdk.graph.ir import Graph, Tensor

#: Largest difference a float output may have from the interpreter's, relative to the largest value of that output.
#: Sums are taken in another order on the device, and its exponential is another one; integers must be equal.
FLOAT_TOLERANCE = 1e-4


#: Data types that may count entries of a table.
INDICES = ("int32", "int64")


@dataclass(frozen=True)
class Golden:
    """`vectors` runs of a model: inputs and outputs in the graph's order, and the CRC-32 of every step's output."""

    inputs: tuple[tuple[np.ndarray, ...], ...]
    outputs: tuple[tuple[np.ndarray, ...], ...]
    crcs: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.inputs)


def random_inputs(graph: Graph, count: int, seed: int = 0) -> list[tuple[np.ndarray, ...]]:
    """`count` inputs that use the whole range of every input: integers uniform, floats normal, indices of a table (tokens) those it has."""
    rng = np.random.default_rng(seed)
    tables = {name: _table(graph, name) for name in graph.inputs if graph[name].quant is None and graph[name].dtype in INDICES}
    return [tuple(_random(rng, graph[name], tables.get(name)) for name in graph.inputs) for _ in range(count)]


def _table(graph: Graph, name: str) -> int | None:
    """Entries of the smallest table that the values of `name`, or what is computed of them, may index; None when they index none.

    An operator without a name may hide a table, and so may a graph that is not at hand: then only 0 and 1 are safe.
    """
    reached, sizes = {name}, [] if graph.nodes else [2]
    for node in graph.nodes:
        if not reached.intersection(node.inputs):
            continue
        if node.op == "opaque":
            sizes.append(2)
        if node.op == "gather" and node.inputs[1] in reached:
            table = graph[node.inputs[0]]
            sizes.append(table.shape[int(node.attrs["axis"]) % len(table.shape)])
        elif all(graph[o].dtype in INDICES for o in node.outputs):
            reached.update(node.outputs)
    return min(sizes, default=None)


def _random(rng: np.random.Generator, tensor: Tensor, table: int | None) -> np.ndarray:
    if table is not None:
        return rng.integers(0, table, tensor.shape, dtype=tensor.dtype)
    if tensor.dtype == "float32":
        return rng.standard_normal(tensor.shape).astype(np.float32)
    if tensor.dtype == "bool":
        return rng.integers(0, 2, tensor.shape).astype(bool)
    info = np.iinfo(tensor.dtype)
    return rng.integers(max(info.min, -(2**15)), min(info.max, 2**15 - 1), tensor.shape, dtype=tensor.dtype, endpoint=True)


def make_golden(graph: Graph, inputs: Sequence[tuple[np.ndarray, ...]], steps: Mapping[str, str]) -> Golden:
    """Run the interpreter on every input. `steps` maps each step's node to the tensor it writes, in order."""
    from sdk.graph.interpreter import run

    outputs, crcs = [], []
    for vector in inputs:
        values = run(graph, dict(zip(graph.inputs, vector, strict=True)), keep=True)
        outputs.append(tuple(np.ascontiguousarray(values[name]) for name in graph.outputs))
        crcs.append(tuple(zlib.crc32(np.ascontiguousarray(values[t]).tobytes()) for t in steps.values()))
    return Golden(tuple(inputs), tuple(outputs), tuple(crcs))


def check_input(tensor: Tensor, value: object) -> np.ndarray:
    """`value` as the bytes the model wants. A float array given to an integer input is quantised; anything else must match.

    Raises `UsageError` naming the shape and type that were given and those that are wanted.
    """
    array = np.asarray(value)
    if tuple(array.shape) != tensor.shape and array.size == tensor.size and array.shape == tensor.shape[1:]:
        array = array.reshape(tensor.shape)
    if tuple(array.shape) != tensor.shape:
        raise UsageError(f"input {tensor.name} has shape {list(array.shape)} and the model takes {list(tensor.shape)}; reshape it")
    if str(array.dtype) == tensor.dtype:
        return np.ascontiguousarray(array)
    if array.dtype.kind == "f" and tensor.quant is not None:
        return quantise_array(tensor, array)
    if array.dtype.kind == "f" and tensor.dtype == "float32":
        return np.ascontiguousarray(array.astype(np.float32))
    raise UsageError(f"input {tensor.name} is {array.dtype} and the model takes {tensor.dtype}; convert it first")


def quantise_array(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """Real values as `tensor` stores them, by the rule of LiteRT's QUANTIZE: halves away from zero, saturating."""
    from sdk.graph import quantmath

    return quantmath.quantise_array(np.asarray(array), tensor.scale, tensor.zero_point, tensor.dtype)


def dequantise_array(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """Stored integers as the real values they stand for, float32."""
    return ((np.asarray(array, np.float64) - tensor.zero_point) * tensor.scale).astype(np.float32)


def npy_bytes(array: np.ndarray) -> bytes:
    """The `.npy` file of an array; the same bytes for the same array."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def npy_array(content: bytes, name: str) -> np.ndarray:
    """The array of a `.npy` file; raises `UsageError` when it is damaged."""
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UsageError(f"{name} is not a readable .npy file ({error}); compile the artifact again") from error
