"""One operator of a .tflite file, and what its conversion may ask of the importer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sdk.errors import ModelError
from sdk.graph.ir import Tensor
from sdk.graph.tflite_schema import Table


class NoEquivalent(Exception):
    """The graph has no op for this operator with these options; it stays opaque."""


@dataclass(frozen=True)
class Operator:
    """One operator of the file. Absent inputs are the empty string; absent options read as their defaults."""

    index: int
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Table | None

    def input(self, index: int) -> str:
        """Name of input `index`; the empty string when it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def needed(self, index: int) -> str:
        """Name of input `index`. Raises ModelError when it is absent."""
        if not self.input(index):
            raise ModelError(f"operator {self.index} ({self.kind}) lacks input {index}; the .tflite file is damaged, download or export it again")
        return self.inputs[index]

    @property
    def output(self) -> str:
        """Name of the only output. Raises ModelError when there is another number of them."""
        if len(self.outputs) != 1:
            raise ModelError(f"operator {self.index} ({self.kind}) has {len(self.outputs)} outputs and gives one; the .tflite file is damaged")
        return self.outputs[0]

    def integer(self, slot: int, kind: str = "i", default: int = 0) -> int:
        """An integer option."""
        return default if self.options is None else self.options.integer(slot, kind, default)

    def flag(self, slot: int, default: bool = False) -> bool:
        """A bool option."""
        return default if self.options is None else self.options.flag(slot, default)

    def real(self, slot: int, default: float = 0.0) -> float:
        """A float option."""
        return default if self.options is None else self.options.real(slot, default)

    def activation(self, slot: int) -> str:
        """The fused activation."""
        name = {0: "none", 1: "relu", 2: "relu_n1_to_1", 3: "relu6"}.get(self.integer(slot, "b"))
        if name is None:
            raise NoEquivalent
        return name


class Importer(Protocol):
    """What a conversion may ask of the importer."""

    tensors: dict[str, Tensor]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""

    def constant(self, name: str) -> np.ndarray | None:
        """Value of a constant; None when it is computed."""

    def set_constant(self, name: str, value: np.ndarray) -> None:
        """Give a tensor its value."""

    def temporary(self, base: str, shape: tuple[int, ...], like: str, **changes: Any) -> str:
        """A new tensor of the type and scale of `like`."""

    def emit(self, op: str, inputs: tuple[str, ...], output: str, **attrs: Any) -> None:
        """Add a node."""


Conversion = Callable[[Importer, Operator], None]


def numbers(importer: Importer, op: Operator, index: int) -> tuple[int, ...]:
    """Values of a constant integer argument (a shape, axes, a permutation). Computed ones have no equivalent."""
    value = importer.constant(op.needed(index))
    if value is None:
        raise NoEquivalent
    if value.dtype not in (np.int32, np.int64) or value.size > 64:
        raise ModelError(f"operator {op.index} ({op.kind}) has {value.dtype}{list(value.shape)} as its argument {index}, which takes a few integers")
    return tuple(int(v) for v in value.reshape(-1))


def rank_of(importer: Importer, op: Operator, index: int, rank: int) -> tuple[int, ...]:
    """Shape of input `index`. Raises ModelError when it has not that many dimensions."""
    shape = importer.shape(op.needed(index))
    if len(shape) != rank:
        raise ModelError(f"operator {op.index} ({op.kind}) has an input of shape {list(shape)}; it takes {rank} dimensions")
    return shape
