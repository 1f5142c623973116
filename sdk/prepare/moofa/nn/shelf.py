"""Batch-norm statistics of some subnets, kept beside a supernet: with them a subnet is whole without any picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sdk.errors import ModelError


def norms(net: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """Every batch norm with its name."""
    yield from ((name, module) for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d))


def statistics(net: nn.Module) -> dict[str, np.ndarray]:
    """{"<norm>.mean", "<norm>.deviation"} as float16: the deviation, not its square, keeps its digits in half the bytes."""
    found: dict[str, np.ndarray] = {}
    for name, norm in norms(net):
        mean, var = norm.running_mean, norm.running_var
        if mean is None or var is None:
            raise ModelError(f"batch norm {name} keeps no statistics, so there is nothing to store; use nn.BatchNorm2d as it is")
        found[f"{name}.mean"] = mean.numpy().astype(np.float16)
        found[f"{name}.deviation"] = var.sqrt().numpy().astype(np.float16)
    return found


@torch.no_grad()
def put(net: nn.Module, stored: Mapping[str, np.ndarray]) -> nn.Module:
    """Give the net these statistics; it comes back in evaluation mode. Raises ModelError where they are another net's."""
    for name, norm in norms(net):
        mean, deviation = stored.get(f"{name}.mean"), stored.get(f"{name}.deviation")
        if mean is None or deviation is None or mean.shape != (norm.num_features,):
            raise ModelError(f"the stored statistics have none for {name} with {norm.num_features} channels; they are another subnet's")
        norm.running_mean = torch.from_numpy(mean.astype(np.float32))
        norm.running_var = torch.from_numpy(deviation.astype(np.float32)) ** 2
    return net.eval()


def save(path: Path, shelf: list[dict[str, np.ndarray]]) -> None:
    """Write the statistics of several subnets, in this order."""
    np.savez_compressed(path, **{f"{i}.{key}": value for i, entry in enumerate(shelf) for key, value in entry.items()})  # type: ignore[arg-type]


def load(path: Path, index: int) -> dict[str, np.ndarray]:
    """The statistics of one of them. Raises ModelError where the file cannot be read or has none."""
    try:
        with np.load(path, allow_pickle=False) as pack:
            found = {name.split(".", 1)[1]: pack[name] for name in pack.files if name.startswith(f"{index}.")}
    except (OSError, ValueError) as error:
        raise ModelError(f"statistics {path} cannot be read: {error}; install the package again") from error
    if not found:
        raise ModelError(f"statistics {path} hold no subnet {index}; install the package again")
    return found
