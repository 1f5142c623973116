"""Weights and biases as integers.

Weights: int8 in [-127, 127], one scale per output channel, zero point 0. Biases: int32 (int64 beside 16-bit
activations), scale `s_x * s_w` of their channel, zero point 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdk.graph.ir import Quant

_BIAS_LIMIT = float(2**30)  # leaves the accumulator as much again for the products


@dataclass(frozen=True)
class Weights:
    """One layer's integer weights; `values` has the float weight's shape."""

    values: np.ndarray  # int8
    quant: Quant  # per channel
    bias: np.ndarray | None  # int32 or int64 [O]
    bias_quant: Quant

    def real(self) -> np.ndarray:
        """The weights the integers stand for, float32."""
        shape = [1] * self.values.ndim
        shape[self.quant.axis or 0] = -1
        return (self.values.astype(np.float32) * np.asarray(self.quant.scale, np.float32).reshape(shape)).astype(np.float32)

    def real_bias(self) -> np.ndarray | None:
        """The bias the integers stand for, float32."""
        return None if self.bias is None else (self.bias * np.asarray(self.bias_quant.scale, np.float64)).astype(np.float32)


def quantise_weights(w: np.ndarray, axis: int, x_scale: float, bias: np.ndarray | None, activations: str = "int8") -> Weights:
    """Integer weights of a layer whose input has scale `x_scale`; |real - w| is at most half a scale."""
    scale = channel_scales(w, axis)
    if bias is not None and activations == "int8":
        # A large bias on nearly dead weights would not fit 32 bits: coarser weights there cost nothing.
        scale = np.maximum(scale, np.abs(bias.astype(np.float64)) / (x_scale * _BIAS_LIMIT))
    scale = scale.astype(np.float32)
    shape = [1] * w.ndim
    shape[axis] = -1
    values = np.clip(np.rint(w.astype(np.float64) / scale.astype(np.float64).reshape(shape)), -127, 127).astype(np.int8)
    zeros = (0,) * len(scale)
    bias_scale = np.float64(np.float32(x_scale)) * scale.astype(np.float64)
    bias_quant = Quant(tuple(bias_scale), zeros, 0)
    return Weights(values, Quant(tuple(scale), zeros, axis), quantise_bias(bias, bias_scale, activations), bias_quant)


def channel_scales(w: np.ndarray, axis: int) -> np.ndarray:
    """[O] float64: the largest magnitude of each channel over 127; a channel of zeros takes the others' median."""
    peak = np.abs(w.astype(np.float64)).max(axis=tuple(i for i in range(w.ndim) if i != axis))
    alive = peak[peak > 0]
    floor = float(np.median(alive)) if alive.size else 1.0
    # below 1e-9 of the median a channel computes nothing that int8 could show, and its scale would leave float32
    return np.where(peak > 1e-9 * floor, peak, floor) / 127


def quantise_bias(bias: np.ndarray | None, scale: np.ndarray, activations: str) -> np.ndarray | None:
    """Biases as multiples of `scale` [O]: int32, or int64 beside int16 activations."""
    if bias is None:
        return None
    steps = np.rint(bias.astype(np.float64) / scale)
    if activations == "int16":
        return np.clip(steps, -(2.0**46), 2.0**46).astype(np.int64)
    return np.clip(steps, -(2.0**31 - 1), 2.0**31 - 1).astype(np.int32)
