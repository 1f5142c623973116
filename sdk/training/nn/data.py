"""Samples and labels: checked in one sentence each, and dealt in batches in the same order for the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdk.errors import DataError
from sdk.training.nn.program import TrainableProgram


class Batches:
    """Samples [N, ...] and labels [N] dealt in batches, shuffled anew each epoch: the order depends on seed and epoch alone.

    list(Batches(x, y, 32)) are the batches of epoch 0; `epoch(n)` gives those of epoch n.
    """

    def __init__(self, x: Any, y: Any, batch: int, seed: int = 0, shuffle: bool = True) -> None:
        self.x, self.y, self.batch, self.seed, self.shuffle = tensor(x), tensor(y), batch, seed, shuffle
        if self.x.shape[0] != self.y.shape[0]:
            raise DataError(f"there are {self.x.shape[0]} samples and {self.y.shape[0]} labels; give one label for each sample")

    def __len__(self) -> int:
        """Batches of one epoch, the shorter last one included."""
        return -(-self.x.shape[0] // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.epoch(0)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(x [B, ...], y [B]) of each batch of one epoch."""
        count = self.x.shape[0]
        order = np.random.default_rng((self.seed, number)).permutation(count) if self.shuffle else np.arange(count)
        for begin in range(0, count, self.batch):
            index = torch.from_numpy(order[begin : begin + self.batch])
            yield self.x[index], self.y[index]


def tensor(value: Any) -> Tensor:
    """A tensor of a tensor, an array or nested lists; float64 becomes float32."""
    if isinstance(value, Tensor):
        found = value.detach()
    else:
        try:
            found = torch.from_numpy(np.ascontiguousarray(value))
        except (TypeError, ValueError) as error:
            raise DataError(f"data of type {type(value).__name__} cannot be read as numbers; give tensors or numpy arrays") from error
    return found.float() if found.dtype == torch.float64 else found


def checked_samples(x: Any, program: TrainableProgram) -> Tensor:
    """x [N, ...] of the type the program takes. Raises DataError for a wrong shape, no samples, or samples in a batch the program cannot take."""
    found = tensor(x)
    if tuple(found.shape[1:]) != program.input_shape or found.dim() != len(program.input_shape) + 1:
        wanted = ", ".join(map(str, program.input_shape))
        raise DataError(f"samples of shape {list(found.shape)} do not fit the model, which takes [batch, {wanted}]; reshape them")
    if not found.shape[0]:
        raise DataError("a batch without samples was given; training needs at least one")
    if found.is_floating_point() != program.input_dtype.is_floating_point:
        raise DataError(f"samples of {_name(found.dtype)} were given and the model takes {_name(program.input_dtype)}; convert them")
    return found.to(program.input_dtype)


def checked_labels(y: Any, count: int, classes: int) -> Tensor:
    """int64 [count] in [0, classes). Raises DataError otherwise."""
    found = tensor(y).reshape(-1)
    if found.is_floating_point() or found.dtype == torch.bool:
        raise DataError(f"labels of {_name(found.dtype)} were given; give the number of the class of each sample, an integer")
    if found.shape[0] != count:
        raise DataError(f"there are {count} samples and {found.shape[0]} labels; give one label for each sample")
    low, high = int(found.min()), int(found.max())
    if low < 0 or high >= classes:
        raise DataError(f"label {low if low < 0 else high} is not a class of the model, which tells {classes} apart; give labels from 0 to {classes - 1}")
    return found.long()


def shapes(samples: Sequence[Tensor]) -> str:
    """The shapes of some tensors, for a sentence."""
    return ", ".join(str(list(sample.shape)) for sample in samples)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
