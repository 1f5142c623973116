"""What a kernel call is, as the planner and the code generator see it.

`lower` (in `sdk.kernels.table`) turns a node into a `Call`: which C function computes it, what its parameter struct
holds, which constants it reads (packed for exactly that function), how much scratch it asks for, and how far its
output may overlap its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from sdk.errors import UnsupportedOp
from sdk.graph.ir import Graph, Node, Tensor


@dataclass(frozen=True)
class Ref:
    """A value in a C initialiser that the code generator resolves.

    `kind` "tensor": embarq_ref of the activation `name`; "scratch": embarq_ref of this step's scratch (name unused);
    "const": pointer to the constant array `name` of this call, NULL when `name` is empty.
    """

    kind: str
    name: str = ""


Value: TypeAlias = "int | float | Ref | tuple[Value, ...]"
Fields: TypeAlias = "tuple[tuple[str, Value], ...]"


@dataclass(frozen=True)
class Call:
    """One step of a compiled model: `function(&params, memory)` in C, with `struct` filled from `fields`.

    `overlap` maps an input's index to a distance d in bytes: that input may share bytes with the output as long as
    address(input) - address(output) >= d. An input that is absent there must not share a byte with the output, and
    scratch shares bytes with nothing. Constant arrays are aligned to 4 bytes in the generated code.
    `other` computes the same bytes a little slower with more scratch and more overlap: the planner takes it where that saves memory.
    """

    node: str
    function: str
    struct: str
    fields: Fields
    constants: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)
    scratch_bytes: int = 0
    overlap: Mapping[int, int] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    other: Call | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "constants", MappingProxyType(dict(self.constants)))
        object.__setattr__(self, "overlap", MappingProxyType(dict(self.overlap)))


@dataclass(frozen=True)
class Refused:
    """Why a kernel cannot compute a node; the next kernel of the table is tried. `mend` is the end of the user's sentence."""

    reason: str
    mend: str


Lowered: TypeAlias = "Call | Refused | None"  # None: the node needs no code (its output is its input's buffer)


@dataclass(frozen=True)
class Site:
    """A node to lower, with its tensors at hand."""

    graph: Graph
    node: Node

    def tensor(self, index: int) -> Tensor:
        """Input `index`. Raises UnsupportedOp when the node lacks it."""
        if not self.has(index):
            raise UnsupportedOp(f"node {self.node.name} ({self.node.op}) has no input {index}; import the model again")
        return self.graph[self.node.inputs[index]]

    def has(self, index: int) -> bool:
        """True when input `index` is given."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index])

    @property
    def output(self) -> Tensor:
        """The first output."""
        return self.graph[self.node.outputs[0]]

    def constant(self, index: int) -> np.ndarray | None:
        """The data of input `index` when it is a constant, else None."""
        tensor = self.tensor(index)
        return tensor.data if tensor.is_const else None


Lower: TypeAlias = "Callable[[Site], Lowered]"


@dataclass(frozen=True)
class Kernel:
    """A row of the kernel table: `lower` packs a node of `op` on `dtypes` for the C `function` on cores that have all of `isa`."""

    op: str
    dtypes: tuple[str, ...]
    isa: frozenset[str]
    function: str
    why: str
    lower: Lower = field(compare=False)


def source(site: Site, index: int, constants: dict[str, np.ndarray]) -> Value:
    """`embarq_source` of an input that may be an activation or a constant; a constant is added to `constants`."""
    tensor = site.tensor(index)
    if not tensor.is_const:
        return (Ref("tensor", tensor.name), Ref("const", ""))
    key = f"input{index}"
    assert tensor.data is not None
    constants[key] = tensor.data
    return (0, Ref("const", key))
