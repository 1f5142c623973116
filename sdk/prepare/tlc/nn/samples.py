"""Labelled samples: what is trained on, what judges, in the same order for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdk.errors import DataError

#: (batch [B, ...], generator) -> batch; applied to training batches only.
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Samples:
    """x [N, ...] with labels y int64 [N] to train on; `held_x`, `held_y` only judge. uint8 inputs are read as value / 255."""

    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    held_x: Tensor = field(repr=False)
    held_y: Tensor = field(repr=False)
    augment: Augment | None = None
    seed: int = 0

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """(x, y) of `count` training samples, evenly over all of them."""
        rows = torch.from_numpy(np.linspace(0, len(self.x) - 1, min(count, len(self.x))).round().astype(np.int64))
        return real(self.x[rows]), self.y[rows]

    def held(self) -> tuple[Tensor, Tensor]:
        """(x, y) of the samples that judge."""
        return real(self.held_x), self.held_y

    def batches(self, size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(x [B, ...], y [B], rows [B]) of one epoch, augmented; order and augmentation depend on seed and epoch alone. A last lone sample is
        left out, for batch norm cannot train on it."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.x))
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        for begin in range(0, len(order), size):
            rows = torch.from_numpy(order[begin : begin + size])
            if len(rows) > 1:
                x = real(self.x[rows])
                yield (x if self.augment is None else self.augment(x, generator)), self.y[rows], rows

    def updates(self, size: int) -> int:
        """Batches of an epoch."""
        return len(self.x) // size + (len(self.x) % size > 1)


def real(x: Tensor) -> Tensor:
    """Floating-point inputs as they are, uint8 as value / 255; integers of other kinds (token numbers) as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def samples_of(data: Any, held_out: float, seed: int, augment: Augment | None = None) -> Samples:
    """Samples from (inputs [N, ...], labels [N]), of which the share `held_out` judges, or from (inputs, labels, held inputs, held labels).

    Raises DataError for anything else, counts that differ, labels that are no class numbers, or too few samples.
    """
    if isinstance(data, Samples):
        return data
    if not isinstance(data, tuple | list) or len(data) not in (2, 4):
        found = f"{len(data)} parts" if isinstance(data, tuple | list) else f"a {type(data).__name__}"
        raise DataError(f"the data is {found}; give (inputs, labels), or (inputs, labels, held-out inputs, held-out labels)")
    parts = [_tensor(part) for part in data]
    for x, y in zip(parts[::2], parts[1::2], strict=True):
        _check(x, y)
    if len(parts) == 4:
        return Samples(parts[0], parts[1].long(), parts[2], parts[3].long(), augment, seed)
    x, y = parts
    if len(x) < 20:
        raise DataError(f"{len(x)} samples are too few to train on some and judge by others; give at least 20")
    order = torch.from_numpy(np.random.default_rng((seed, 0x5EED)).permutation(len(x)))
    cut = max(1, round(held_out * len(x)))
    return Samples(x[order[cut:]], y[order[cut:]].long(), x[order[:cut]], y[order[:cut]].long(), augment, seed)


def _check(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y) or not len(x):
        raise DataError(f"there are {len(x)} samples and {len(y)} labels; give one label for each sample, and at least one")
    if y.dim() != 1 or y.is_floating_point() or y.dtype == torch.bool or int(y.min()) < 0:
        raise DataError(f"labels of {str(y.dtype).removeprefix('torch.')} {list(y.shape)} are no class numbers; give one integer from 0 up for each sample")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise DataError("the inputs hold a value that is not finite; take such samples out")


def _tensor(value: Any) -> Tensor:
    """float64 becomes float32."""
    from sdk.training.nn.data import tensor

    return tensor(value)
