"""Batch-norm statistics of a subnet: those of the supernet fit none of its subnets, so they are always estimated anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

#: Pictures that are enough: a hundred times the batch that a layer's statistics were learned with gives no better accuracy.
PICTURES = 2000


@torch.no_grad()
def reestimate(net: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Set every batch norm's mean and variance to their average over `batches` ([n, 3, R, R] each); the net comes back in evaluation mode.

    Raises ValueError where there are no batches.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average over all batches, not a moving one
        norm.train()
    seen = 0
    for batch in batches:
        net(batch)
        seen += 1
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    if not seen and norms:
        raise ValueError("batch-norm statistics need pictures, and there were none")
    return net.eval()
