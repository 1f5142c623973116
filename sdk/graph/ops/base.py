"""What an op is: a shape rule, a meaning in numpy per data type, and the constraints a user reads in `embarq ops`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdk.errors import ModelError, UnsupportedOp
from sdk.graph.ir import Node, Tensor

Shape = tuple[int, ...]

#: Types that are moved, never computed with: reshape, transpose, slice...
ANY = ("float32", "int8", "int16", "int32", "int64", "uint8", "bool")


@dataclass(frozen=True)
class Use:
    """One use of an op: the node, its tensors (None for an absent input), and their values when it is computed.

    Values may hold more samples than the tensors declare: the batch is whatever dimension 0 of the values says.
    """

    node: Node
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor | None, ...]
    values: tuple[np.ndarray | None, ...] = ()

    def input(self, index: int) -> Tensor:
        """Tensor of input `index`. Raises ModelError when the node does not have it."""
        tensor = self.inputs[index] if index < len(self.inputs) else None
        if tensor is None:
            raise ModelError(f"node {self.node.name} ({self.node.op}) has no input {index}; give it every input the op needs")
        return tensor

    def output(self, index: int = 0) -> Tensor:
        """Tensor of output `index`."""
        tensor = self.outputs[index] if index < len(self.outputs) else None
        if tensor is None:
            raise ModelError(f"node {self.node.name} ({self.node.op}) has no output {index}")
        return tensor

    def value(self, index: int) -> np.ndarray:
        """Value of input `index`."""
        value = self.values[index] if index < len(self.values) else None
        if value is None:
            raise ModelError(f"node {self.node.name} ({self.node.op}) has no value for input {index}")
        return value

    def optional(self, index: int) -> np.ndarray | None:
        """Value of input `index`, or None when it is absent."""
        return self.values[index] if index < len(self.values) else None

    def attr(self, name: str) -> Any:
        """An attribute the op cannot do without. Raises ModelError when it is missing."""
        if name not in self.node.attrs:
            raise ModelError(f"node {self.node.name} ({self.node.op}) lacks the attribute {name!r}")
        return self.node.attrs[name]

    def wrong(self, what: str) -> ModelError:
        """A ModelError that names this node."""
        return ModelError(f"node {self.node.name} ({self.node.op}): {what}")


Constraint = Callable[[Use], "str | None"]  # its docstring is what users read; its value the reason it does not hold, or None
Meaning = Callable[[Use], "np.ndarray | tuple[np.ndarray, ...]"]


@dataclass(frozen=True)
class Op:
    """One op. `inputs` are names in order: "b?" may be absent, "x..." is one or more.

    `meaning` maps the data type of the first input to the function that computes the op. An op with several outputs, or none,
    has `results` beside a shape that fits its main one. `updates` are indices of the inputs it changes: variables, whose new values
    its meaning gives behind its outputs, absent ones left out.
    """

    name: str
    doc: str
    inputs: tuple[str, ...]
    shape: Callable[[Use], Shape]
    meaning: Mapping[str, Meaning]
    dtype: Callable[[Use], str] | None = None  # None: the first input's
    attrs: Mapping[str, str] = field(default_factory=dict)  # name -> what it says
    constraints: tuple[Constraint, ...] = ()
    quantised: bool = True  # int8 and int16 inputs and outputs must carry a scale and zero point
    results: Callable[[Use], tuple[tuple[Shape, str], ...]] | None = None  # of every output; None: one, of `shape` and `dtype`
    updates: tuple[int, ...] = ()

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Data types of the first input that the op is defined for."""
        return tuple(self.meaning)

    def infer(self, node: Node, tensors: Mapping[str, Tensor]) -> tuple[tuple[Shape, str], ...]:
        """`((shape, dtype), ...)` of the outputs. Raises ModelError when the inputs do not fit together."""
        use = make_use(node, tensors)
        self._count(use)
        if self.results is not None:
            return self.results(use)
        shape = self.shape(use)
        if any(d < 0 for d in shape):
            raise use.wrong(f"its output would have shape {list(shape)}; the input is too small for the kernel or range asked for")
        return ((shape, self.dtype(use) if self.dtype else use.input(0).dtype),)

    def compute(self, node: Node, tensors: Mapping[str, Tensor], values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Values of the outputs, then of the inputs it updates. Constants may come from `values` or from the tensors themselves."""
        use = make_use(node, tensors, values)
        dtype = use.input(0).dtype
        if dtype not in self.meaning:
            raise UnsupportedOp(f"node {node.name} ({node.op}) has a {dtype} input and is defined for {', '.join(self.meaning)}; convert or quantise it")
        result = self.meaning[dtype](use)
        return result if isinstance(result, tuple) else (result,)

    def updated(self, node: Node) -> tuple[str, ...]:
        """Names of the variables that `node` changes, in the order of `updates`."""
        return tuple(node.inputs[i] for i in self.updates if i < len(node.inputs) and node.inputs[i])

    def check(self, node: Node, tensors: Mapping[str, Tensor]) -> str | None:
        """The first constraint that does not hold, as a reason; None when all do."""
        use = make_use(node, tensors)
        return next((reason for constraint in self.constraints if (reason := constraint(use))), None)

    def _count(self, use: Use) -> None:
        needed = [n for n in self.inputs if not n.endswith("?")]
        variadic = any(n.endswith("...") for n in self.inputs)
        given = len(use.node.inputs)
        if given < len(needed) or (given > len(self.inputs) and not variadic):
            raise use.wrong(f"it has {given} inputs and takes ({', '.join(self.inputs)})")
        for index in range(len(needed)):
            use.input(index)


def make_use(node: Node, tensors: Mapping[str, Tensor], values: Mapping[str, np.ndarray] | None = None) -> Use:
    """The node with its tensors, and with values where `values` is given."""
    inputs = tuple(tensors[n] if n else None for n in node.inputs)
    outputs = tuple(tensors.get(n) for n in node.outputs)
    if values is None:
        return Use(node, inputs, outputs)
    return Use(node, inputs, outputs, tuple(_value(t, values) for t in inputs))


def _value(tensor: Tensor | None, values: Mapping[str, np.ndarray]) -> np.ndarray | None:
    return None if tensor is None else values.get(tensor.name, tensor.data)


# ---- shape rules and constraints that several families use ---------------------------------------------------------


def same_shape(use: Use) -> Shape:
    """The first input's shape."""
    return use.input(0).shape


def broadcast_shape(use: Use) -> Shape:
    """numpy's broadcasting of the first two inputs."""
    a, b = use.input(0).shape, use.input(1).shape
    try:
        return tuple(np.broadcast_shapes(a, b))
    except ValueError:
        raise use.wrong(f"shapes {list(a)} and {list(b)} do not broadcast; make them equal or 1 in every dimension") from None


def axis_of(use: Use, axis: int, rank: int) -> int:
    """`axis` counted from the front. Raises ModelError when there is no such dimension."""
    if not -rank <= axis < rank:
        raise use.wrong(f"axis {axis} does not exist in a tensor of {rank} dimensions")
    return axis % rank


def axes_of(use: Use, rank: int) -> tuple[int, ...]:
    """The attribute `axes`, sorted, counted from the front; all of them when it is None."""
    axes = use.node.attrs.get("axes")
    return tuple(range(rank)) if axes is None else tuple(sorted({axis_of(use, a, rank) for a in axes}))


def is_quantised(tensor: Tensor) -> bool:
    """True for int8 and int16 values that stand for real numbers."""
    return tensor.dtype in ("int8", "int16")


def same_quant(use: Use) -> str | None:
    """int8, int16: inputs and output share one scale and zero point."""
    tensors = [t for t in (*use.inputs, *use.outputs) if t is not None and is_quantised(t)]
    first = tensors[0].quant if tensors else None
    if any(t.quant != first for t in tensors):
        return "its int8 inputs and output have different scales; put a requantize before it"
    return None


def last_axis_only(use: Use) -> str | None:
    """int8, int16: only along the last axis."""
    x = use.input(0)
    if is_quantised(x) and use.node.attrs.get("axis", -1) not in (-1, len(x.shape) - 1):
        return "quantised, it works along the last axis only; put a transpose before it"
    return None


def float_activation(x: np.ndarray, activation: str) -> np.ndarray:
    """The fused activation on float32 values."""
    match activation:
        case "none":
            return x
        case "relu":
            return np.maximum(x, np.float32(0))
        case "relu6":
            return np.clip(x, np.float32(0), np.float32(6))
        case "relu_n1_to_1":
            return np.clip(x, np.float32(-1), np.float32(1))
    raise ModelError(f"activation {activation!r} is unknown; known are none, relu, relu6, relu_n1_to_1")


def fixed(dtypes: Sequence[str], function: Meaning) -> dict[str, Meaning]:
    """The same meaning for several data types."""
    return dict.fromkeys(dtypes, function)
