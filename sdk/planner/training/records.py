"""What planning and training tell each other: the layers that can learn, what a calibration run saw of them, and what was chosen.

A layer's *modes* are the dimensions of its input: (B, C, H, W) for a convolution, (B, I), (B, L, I) or (B, M, L, I) for a linear layer.
A *spectrum* is the energy along one mode: the eigenvalues of the mode's Gram matrix, falling, summed over the calibration samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

#: How one layer may be treated, cheapest first.
CHOICES = ("freeze", "bias", "adapter", "fixed", "asi", "hosvd", "svd", "channels", "recompute", "exact")
#: Shares of the input channels that may learn alone; calibration tells the cosine of each.
FRACTIONS = (0.5, 0.25)


@dataclass(frozen=True)
class Choice:
    """How one layer learns.

    method: one of CHOICES. eps: the share of energy kept. ranks: of each mode, batch first; 0 leaves a mode as it is, () leaves the ranks
    to each batch (svd, hosvd). fraction: of input channels that learn ("channels"). factors: data type of what is kept.
    """

    layer: str
    method: str = "exact"
    eps: float = 1.0
    ranks: tuple[int, ...] = ()
    fraction: float = 1.0
    factors: str = "float32"

    def __post_init__(self) -> None:
        if self.method not in CHOICES:
            raise ValueError(f"layer {self.layer} cannot be treated by {self.method!r}; known are {', '.join(CHOICES)}")


@dataclass(frozen=True)
class LayerRecord:
    """One layer that can learn, as a calibration run saw it. Shapes are of one sample, without the batch.

    name: of its weight in the source model, without ".weight". op: "conv2d" or "linear". weight_shape: [O, I / groups, kh, kw] or [O, I].
    padding: (top, bottom, left, right). activation: what follows and keeps a bit mask: "", "relu", "relu6" or "hardswish".
    spectra: one array a mode of the input, batch left out: (C, H, W), (I,), (L, I) or (M, L, I). gradient_spectra: likewise, but what each
    direction of the calibrated bases adds to the weight gradient; ranks of fixed bases and adapters follow these where there are any, and
    energy_spectra, the energy along the same directions.
    batch_ranks: (method, eps) of hosvd and svd -> what each calibration batch took: (samples, rank of each mode, batch first; 0 whole).
    gradient_norm: Euclidean norm of the weight gradient, mean over the batches. cosines: (method, eps), or ("channels", fraction), -> cosine
    between that gradient and the exact one, mean over the batches.
    """

    name: str
    op: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    has_bias: bool = True
    activation: str = ""
    spectra: tuple[np.ndarray, ...] = field(default=(), repr=False, compare=False)
    gradient_spectra: tuple[np.ndarray, ...] = field(default=(), repr=False, compare=False, kw_only=True)
    energy_spectra: tuple[np.ndarray, ...] = field(default=(), repr=False, compare=False, kw_only=True)
    gradient_norm: float = 0.0
    bias_gradient_norm: float = 0.0
    cosines: Mapping[tuple[str, float], float] = field(default_factory=dict, repr=False)
    batch_ranks: Mapping[tuple[str, float], tuple[tuple[int, ...], ...]] = field(default_factory=dict, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("cosines", "batch_ranks"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def input_size(self) -> int:
        """Values of one sample's input."""
        return int(np.prod(self.input_shape, dtype=np.int64))

    @property
    def output_size(self) -> int:
        """Values of one sample's output."""
        return int(np.prod(self.output_shape, dtype=np.int64))

    @property
    def weight_size(self) -> int:
        """Number of weights, without the bias."""
        return int(np.prod(self.weight_shape, dtype=np.int64))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample's forward pass."""
        positions = self.output_size // self.output_shape[0 if self.op == "conv2d" else -1]
        return positions * self.weight_size
