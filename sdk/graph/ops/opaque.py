"""The op for what the graph cannot name: it can be planned and reported, and nothing here can compute it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sdk.errors import UnsupportedOp
from sdk.graph.ir import Node, Tensor
from sdk.graph.ops.base import Op, Shape, Use


@dataclass(frozen=True)
class OpaqueOp(Op):
    """Shapes and types are what the source model declared; computing raises UnsupportedOp."""

    def infer(self, node: Node, tensors: Mapping[str, Tensor]) -> tuple[tuple[Shape, str], ...]:
        """What the output tensors declare."""
        return tuple((tensors[name].shape, tensors[name].dtype) for name in node.outputs)

    def compute(self, node: Node, tensors: Mapping[str, Tensor], values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Raises UnsupportedOp, always."""
        kind, where = node.attrs.get("kind", "?"), f" at {node.source}" if node.source else ""
        raise UnsupportedOp(f"node {node.name} is the op {kind}{where}, which has no meaning here; replace it in the source model or choose a Linux device")


def _unknown(use: Use) -> Shape:
    return use.output().shape


OPS = (
    OpaqueOp("opaque", "An op the graph cannot name: planned and exported, not run on a microcontroller.", ("x...",), _unknown, {},
             attrs={"kind": "its name in the source model"}, quantised=False),
)  # fmt: skip
