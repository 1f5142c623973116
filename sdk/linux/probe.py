"""Two small nets by which a device's engines are timed: convolutions, and dense layers. Their rates scale the latency of every other net."""

from __future__ import annotations

from typing import Any

import numpy as np

SHAPES = {"conv": (1, 64, 28, 28), "dense": (1, 196, 384)}
#: Multiply-accumulates of one inference: four 3x3 layers of 64 channels on 28 x 28, four dense layers of 384 on 196 rows.
MACS = {"conv": 4 * 28 * 28 * 64 * 64 * 9, "dense": 4 * 196 * 384 * 384}
#: Which probe gives the rate of a precision: dynamic int8 touches dense layers alone.
KIND_OF = {"float32": "conv", "int8": "conv", "dynamic-int8": "dense"}


def module(kind: str) -> Any:
    """The torch net, "conv" or "dense", the same every time."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    made = (nn.Conv2d(64, 64, 3, padding=1) if kind == "conv" else nn.Linear(384, 384) for _ in range(4))
    return nn.Sequential(*(layer for one in made for layer in (one, nn.ReLU()))).eval()


def inputs(kind: str) -> np.ndarray:
    """One input, float32, of the shape in SHAPES."""
    return np.random.default_rng(0).standard_normal(SHAPES[kind]).astype(np.float32)
