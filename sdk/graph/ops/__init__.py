"""Every op of the graph: `OPS[name]` is its shape rule, its meaning in numpy and its constraints.

float32 means what numpy computes. int8 means what LiteRT's reference kernels compute, in every byte; where LiteRT has no int8
kernel the meaning is our own, written so that C computes the same bytes. int16 activations follow LiteRT's 16x8 rules.
A new op is one entry in a family's file; nothing else has to know of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sdk.graph.ir import Node
from sdk.graph.ops import activation, conv, elementwise, norm, opaque, pool, quant, reduce, resize, shape, softmax, training
from sdk.graph.ops.base import Op, Use

_FAMILIES = (conv, pool, elementwise, activation, softmax, reduce, shape, resize, quant, norm, training, opaque)

OPS: Mapping[str, Op] = MappingProxyType({op.name: op for family in _FAMILIES for op in family.OPS})



def written(node: Node) -> tuple[str, ...]:
    """Every tensor that `node` writes: its outputs, then the variables it updates."""
    return (*node.outputs, *OPS[node.op].updated(node))


__all__ = ["OPS", "Op", "Use", "written"]
