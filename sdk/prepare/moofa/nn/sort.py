"""Puts the important channels of every block first, because narrow subnets keep the first ones. The largest subnet stays the same function."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdk.prepare.moofa.nn.elastic import ElasticBlock, Supernet
from sdk.prepare.moofa.nn.plain import SqueezeExcite


@torch.no_grad()
def sort_channels(supernet: Supernet) -> None:
    """Order each block's inner channels by the sum of the magnitudes with which the projection reads them, largest first (arXiv 1908.09791)."""
    for block in supernet.blocks.values():
        _sort_block(block)  # type: ignore[arg-type]


def _sort_block(block: ElasticBlock) -> None:
    layers = block.whole.layers
    if not hasattr(layers, "expand"):
        return  # its channels are the stem's, and no subnet narrows them
    order = layers.project.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)  # type: ignore[union-attr, operator]
    for name in ("expand", "depthwise"):
        _rows(getattr(layers, name), order)
        _rows(getattr(layers, f"{name}_norm"), order)
    _columns(layers.project, order)  # type: ignore[arg-type]
    squeeze = getattr(layers, "squeeze", None)
    if isinstance(squeeze, SqueezeExcite):
        _rows(squeeze.expand, order)
        _columns(squeeze.reduce, order)
        inner = squeeze.expand.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)
        _rows(squeeze.reduce, inner)
        _columns(squeeze.expand, inner)


def _rows(layer: nn.Module, order: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(layer, name, None)
        if tensor is not None:
            tensor.data.copy_(tensor.detach()[order])


def _columns(layer: nn.Module, order: Tensor) -> None:
    layer.weight.data.copy_(layer.weight.detach()[:, order])  # type: ignore[operator, union-attr, index]
