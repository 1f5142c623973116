"""Puts the important channels of every block first, because narrow subnets keep the first ones. The largest subnet stays the same function."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from sdk.prepare.moofa.nn.elastic import ElasticBlock, Supernet
from sdk.prepare.moofa.nn.plain import InvertedResidual


@torch.no_grad()
def sort_channels(supernet: Supernet) -> None:
    """Order each block's inner channels by the sum of the magnitudes with which the projection reads them, largest first (arXiv 1908.09791)."""
    for block in supernet.blocks.values():
        _sort_block(cast(ElasticBlock, block).whole)


def _sort_block(block: InvertedResidual) -> None:
    if not block.expands:
        return  # its channels are the stem's, and no subnet narrows them
    order = block.project.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)
    for layer in (block.expand, block.expand_norm, block.depthwise, block.depthwise_norm):
        _rows(layer, order)
    _columns(block.project, order)
    if block.squeeze is not None:
        _rows(block.squeeze.expand, order)
        _columns(block.squeeze.reduce, order)
        inner = block.squeeze.expand.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)
        _rows(block.squeeze.reduce, inner)
        _columns(block.squeeze.expand, inner)


def _rows(layer: nn.Module, order: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(layer, name, None)
        if tensor is not None:
            tensor.copy_(tensor[order])


def _columns(layer: nn.Conv2d, order: Tensor) -> None:
    layer.weight.copy_(layer.weight[:, order])
