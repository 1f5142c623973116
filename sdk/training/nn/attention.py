"""Scaled dot-product attention that keeps its three inputs alone and computes its inside once more in backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """softmax(query key^T scale) value of [B, heads, L, d] tensors; keeps query, key and value, not the result and not the [L, L] weights."""
    return _Attention.apply(query, key, value, mask, causal, scale)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.rest = (mask, causal, scale)
        return F.scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        wanted = [n for n in range(3) if ctx.needs_input_grad[n]]
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_(ctx.needs_input_grad[n]) for n, t in enumerate(ctx.saved_tensors)]
            mask, causal, scale = ctx.rest
            y = F.scaled_dot_product_attention(inputs[0], inputs[1], inputs[2], mask, 0.0, causal, scale=scale)
        grads = torch.autograd.grad(y, [inputs[n] for n in wanted], dy)
        found: list[Tensor | None] = [None] * 6
        for n, grad in zip(wanted, grads, strict=True):
            found[n] = grad
        return tuple(found)
