"""Parts of a program written so that XNNPACK takes them whole: attention without the ceremony, `unbind` as slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def simplified(program: Any) -> Any:
    """The program with attention, and splitting along an axis, in operators that XNNPACK has; the same one where it has neither.

    torch's own decomposition of attention guards against rows that are all masked (ten portable operators a layer) and expands
    what needs no expansion. Without a mask there are no such rows. Halves the time of a small text transformer.
    """
    import torch

    aten = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = {aten.scaled_dot_product_attention.default: _attention, aten.unbind.int: _unbind}
    found = {node.target for node in program.graph.nodes if node.op == "call_function"}
    return program.run_decompositions({op: f for op, f in table.items() if op in found}) if found & set(table) else program


def _attention(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
               enable_gqa: bool = False) -> Any:  # fmt: skip
    """Plain attention over [..., L, E]; NotImplemented leaves to torch what has a mask, dropout, shared heads or broadcast batches."""
    import torch

    if attn_mask is not None or dropout_p or is_causal or enable_gqa or not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        return NotImplemented
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (t.reshape(-1, t.shape[-2], t.shape[-1]) for t in (query, key, value))  # one batch axis: a product of four axes is expanded first
    weights = torch.softmax(torch.bmm(q * factor, k.transpose(1, 2)), -1)  # [batch, L, S]
    return torch.bmm(weights, v).reshape(*query.shape[:-1], value.shape[-1])


def _unbind(tensor: Any, dim: int = 0) -> Any:
    """Slices of one, reshaped: XNNPACK has no squeeze of several axes."""
    shape = list(tensor.shape)
    axis = dim % len(shape)
    kept = shape[:axis] + shape[axis + 1 :]
    return [tensor.narrow(axis, i, 1).reshape(kept) for i in range(shape[axis])]
