"""Quantisation constants in the form the C kernels take."""

from __future__ import annotations

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph.ir import ITEMSIZE
from sdk.kernels.base import Ref, Site, Value


def requant(site: Site, constants: dict[str, np.ndarray]) -> Value:
    """`embarq_requant` of conv2d, depthwise_conv2d or dense: per-channel pairs as constants `mult` and `shift`."""
    pairs = qm.dense_multipliers if site.node.op == "dense" else qm.conv_multipliers
    mult, shift = pairs(site.node, site.graph)
    constants["mult"], constants["shift"] = np.array(mult, np.int32), np.array(shift, np.int32)
    low, high = qm.output_range(site.node, site.output)
    return (Ref("const", "mult"), Ref("const", "shift"), site.output.zero_point, low, high)


def requant_64(site: Site, constants: dict[str, np.ndarray]) -> Value:
    """The same for 64-bit sums, which LiteRT multiplies by the upper 16 bits of the multiplier."""
    filled = requant(site, constants)
    mult = constants["mult"].astype(np.int64)
    constants["mult"] = np.where(mult < 0x7FFF0000, (mult + (1 << 15)) >> 16, 0x7FFF).astype(np.int32)
    return filled


#: float32's largest: stands for no bound, so that constants need no infinity.
REAL_MAX = float(np.finfo(np.float32).max)


def real_range(activation: str) -> tuple[float, float]:
    """Smallest and largest float32 that the fused activation lets through."""
    match activation:
        case "relu":
            return 0.0, REAL_MAX
        case "relu6":
            return 0.0, 6.0
        case "relu_n1_to_1":
            return -1.0, 1.0
    return -REAL_MAX, REAL_MAX


def item(dtype: str) -> int:
    """Bytes of one value."""
    return ITEMSIZE[dtype]


def bias(site: Site, channels: int) -> np.ndarray:
    """int32 (or int64) bias [channels]; zeros when the node has none."""
    data = site.constant(2) if site.has(2) else None
    return np.zeros(channels, np.int32) if data is None else data
