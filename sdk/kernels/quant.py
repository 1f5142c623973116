"""Quantisation constants in the form the C kernels take."""

from __future__ import annotations

import numpy as np

from sdk.graph import quantmath as qm
from sdk.kernels.base import Ref, Site, Value


def requant(site: Site, constants: dict[str, np.ndarray]) -> Value:
    """`embarq_requant` of conv2d, depthwise_conv2d or dense: per-channel pairs as constants `mult` and `shift`."""
    pairs = qm.dense_multipliers if site.node.op == "dense" else qm.conv_multipliers
    mult, shift = pairs(site.node, site.graph)
    constants["mult"], constants["shift"] = np.array(mult, np.int32), np.array(shift, np.int32)
    low, high = qm.output_range(site.node, site.output)
    return (Ref("const", "mult"), Ref("const", "shift"), site.output.zero_point, low, high)


def bias(site: Site, channels: int) -> np.ndarray:
    """int32 (or int64) bias [channels]; zeros when the node has none."""
    data = site.constant(2) if site.has(2) else None
    return np.zeros(channels, np.int32) if data is None else data
