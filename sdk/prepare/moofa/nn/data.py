"""Batches of pictures for training and for statistics: shuffled, mirrored, shifted, resized, each the same for the same seed and step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sdk.errors import DataError


def pictures(x: np.ndarray, y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays, checked: x uint8 [n, H, W, 3], y integers [n] from 0 up. Raises DataError with what is wrong."""
    if x.ndim != 4 or x.shape[3] != 3 or x.dtype != np.uint8 or not len(x):
        raise DataError(f"pictures must be uint8 [n, height, width, 3]; these are {x.dtype} {list(x.shape)}")
    if y is not None and (y.shape != (len(x),) or y.dtype.kind not in "iu" or y.min() < 0):
        raise DataError(f"labels must be {len(x)} integers from 0 up; these are {y.dtype} {list(y.shape)}")
    return x, y


def to_input(x: np.ndarray) -> Tensor:
    """uint8 [n, H, W, 3] -> float32 [n, 3, H, W] in [0, 1], channels last in memory."""
    return (torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)


def resized(x: Tensor, side: int) -> Tensor:
    """[n, 3, H, W] -> [n, 3, side, side], averaged over the area that a new pixel covers."""
    if x.shape[2:] == (side, side):
        return x
    return torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True).contiguous(memory_format=torch.channels_last)


def order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of `count` rows, another for each epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def augmented(x: np.ndarray, shift: int, random: np.random.Generator) -> np.ndarray:
    """Each picture of [n, H, W, 3] mirrored half of the time and moved by up to `shift` pixels each way, zeros coming in."""
    n, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    down: np.ndarray = random.integers(0, 2 * shift + 1, (n, 1))
    right: np.ndarray = random.integers(0, 2 * shift + 1, (n, 1))
    mirrored: np.ndarray = random.random((n, 1)) < 0.5
    rows, straight = down + np.arange(height), right + np.arange(width)
    columns: np.ndarray = np.where(mirrored, straight[:, ::-1], straight)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def batches(x: np.ndarray, side: int, size: int = 200, count: int | None = None) -> Iterator[Tensor]:
    """[size, 3, side, side] of uint8 pictures [n, H, W, 3] in order; `count`: how many pictures, spread evenly over all, or all."""
    rows = np.arange(len(x)) if count is None or count >= len(x) else np.linspace(0, len(x) - 1, count).round().astype(int)
    for begin in range(0, len(rows), size):
        yield resized(to_input(x[rows[begin : begin + size]]), side)
