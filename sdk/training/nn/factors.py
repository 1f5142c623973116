"""How one kept tensor is held: as it is, in half precision, or as int8 with one scale per principal component."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Kinds of factors, with bytes per value (int8 keeps a float32 scale per component beside them).
KINDS = {"float32": 4, "float16": 2, "int8": 1}
_HALF_MAX = 65504.0
#: Values rounded at once, so that rounding a whole input makes no second one.
CHUNK = 1 << 18


def encode(x: Tensor, kind: str, component: int) -> tuple[Tensor, ...]:
    """What is held of `x`: one tensor, or (values int8, scales) with a scale for every index of dimension `component`, which is not the first.

    A scale for each component, because the energy of principal components falls by orders of magnitude: one scale would round the small ones away.
    """
    match kind:
        case "float32":
            return (x,)
        case "float16":
            return (x.clamp(-_HALF_MAX, _HALF_MAX).to(torch.float16),)
        case "int8":
            others = [n for n in range(x.dim()) if n != component]
            scale = torch.linalg.vector_norm(x, float("inf"), others, keepdim=True) / 127.0
            steps, divisor = torch.empty_like(x, dtype=torch.int8), scale.clamp_min(1e-30)
            size = max(1, CHUNK // max(1, x[0].numel()))
            for into, part in zip(steps.split(size), x.split(size), strict=True):
                into.copy_((part / divisor).round_())
            return (steps, scale)
    raise ValueError(f"factors cannot be held as {kind!r}; known are {', '.join(KINDS)}")


def decode(parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """The tensor that `encode` was given, up to what its kind rounds away."""
    if len(parts) == 2:
        return parts[0].to(dtype).mul_(parts[1])
    return parts[0].to(dtype)


@dataclass(frozen=True, eq=False)
class Held:
    """A basis that all batches share, [d, K], as its bytes are held; every use decodes it anew, so that no second copy stays."""

    parts: tuple[Tensor, ...] = field(repr=False)

    @classmethod
    def of(cls, basis: Tensor, kind: str = "float32") -> Held:
        """`basis` held as `kind`, int8 with a scale for every column, in storage of its own."""
        return cls(encode(own(basis.detach().contiguous()), kind, 1))

    @property
    def shape(self) -> torch.Size:
        """[d, K]."""
        return self.parts[0].shape

    def tensor(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """[d, K]: what projections and gradients are computed with, rounding included."""
        return decode(self.parts, dtype)


def own(x: Tensor) -> Tensor:
    """`x` itself where its storage holds nothing else, else a copy: a view would keep the whole of the larger tensor alive."""
    if x.untyped_storage().nbytes() == x.numel() * x.element_size():
        return x
    return x.clone(memory_format=torch.preserve_format)
