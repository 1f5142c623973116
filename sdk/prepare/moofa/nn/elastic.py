"""The supernet: one set of weights that every subnet of a ladder is a part of.

Small kernels are the centre of larger ones, changed by a learned matrix that all channels of a layer share (7 to 5, 5 to 3; identity at
first). Narrow layers are the first channels of wide ones, shallow stages the first blocks of deep ones (arXiv 1908.09791, 2409.05900).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.prepare.moofa.nn.depthwise import depthwise
from sdk.prepare.moofa.nn.plain import NORM_EPS, NORM_MOMENTUM, InvertedResidual, SqueezeExcite, SubnetModule, initialise
from sdk.prepare.moofa.space import SQUEEZE, Block, Ladder, Subnet, blocks, check, divisible, largest


class ElasticBlock(nn.Module):
    """An inverted residual of the largest size; `run` uses the part of it that a `Block` asks for."""

    def __init__(self, block: Block, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.whole = InvertedResidual(block)
        self.sizes = tuple(k for k in kernels if k <= block.kernel) or (block.kernel,)
        self.transforms = nn.ParameterDict({f"to{k}": nn.Parameter(torch.eye(k * k)) for k in self.sizes[:-1]})

    def kernel(self, size: int, channels: int) -> Tensor:
        """Depthwise weights [channels, 1, size, size]."""
        weight = self.whole.depthwise.weight[:channels]
        for k in reversed(self.sizes):
            if k < size:
                break
            cut = (weight.shape[-1] - k) // 2
            if cut:
                centre = weight[:, :, cut : cut + k, cut : cut + k].reshape(channels, k * k)
                weight = (centre @ self.transforms[f"to{k}"].T).view(channels, 1, k, k)
        return weight

    def run(self, x: Tensor, block: Block) -> Tensor:
        """x [N, inputs, S, S] -> [N, outputs, S', S']."""
        own, hidden, y = self.whole, block.hidden, x
        if block.expands:
            y = own.act(_norm(own.expand_norm, F.conv2d(x, own.expand.weight[:hidden])))
        y = depthwise(y, self.kernel(block.kernel, hidden), block.stride)
        y = own.act(_norm(own.depthwise_norm, y))
        y = y if own.squeeze is None else _squeeze(own.squeeze, y, hidden)
        y = _norm(own.project_norm, F.conv2d(y, own.project.weight[:, :hidden]))
        return x + y if block.residual else y

    def copy_to(self, plain: InvertedResidual, block: Block) -> None:
        """Write this block's part into an ordinary block's parameters."""
        own, hidden = self.whole, block.hidden
        if block.expands:
            plain.expand.weight.copy_(own.expand.weight[:hidden])
            _copy_norm(plain.expand_norm, own.expand_norm)
        plain.depthwise.weight.copy_(self.kernel(block.kernel, hidden))
        _copy_norm(plain.depthwise_norm, own.depthwise_norm)
        if plain.squeeze is not None and own.squeeze is not None:
            inner = divisible(hidden / SQUEEZE)
            _copy_part(plain.squeeze.reduce, own.squeeze.reduce, inner, hidden)
            _copy_part(plain.squeeze.expand, own.squeeze.expand, hidden, inner)
        plain.project.weight.copy_(own.project.weight[:, :hidden])
        _copy_norm(plain.project_norm, own.project_norm)


class Supernet(nn.Module):
    """x [N, 3, R, R] -> logits [N, classes] of the active subnet, the largest one at first.

    The picture's side is the caller's: the active subnet's `resolution` is only what it is meant for.
    """

    def __init__(self, ladder: Ladder, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.ladder, self.classes = ladder, classes
        self.active = largest(ladder)
        whole = SubnetModule(ladder, self.active, classes)
        initialise(whole, seed)
        self.stem, self.final, self.feature, self.classifier = whole.stem, whole.final, whole.feature, whole.classifier
        self.blocks = nn.ModuleDict()
        for block, made in zip(blocks(ladder, self.active), whole.blocks, strict=True):
            elastic = ElasticBlock(block, ladder.kernels)
            elastic.whole = cast(InvertedResidual, made)
            self.blocks[_place(block)] = elastic

    def set_active(self, subnet: Subnet) -> None:
        """Use this subnet from now on. Raises UsageError where it is not one of the ladder's."""
        self.active = check(self.ladder, subnet)

    def parts(self, subnet: Subnet) -> Iterator[tuple[ElasticBlock, Block]]:
        """Every block of the subnet with the elastic one that it is a part of."""
        yield from ((cast(ElasticBlock, self.blocks[_place(block)]), block) for block in blocks(self.ladder, subnet))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, R, R] -> [N, classes]."""
        y = self.stem(x)
        for elastic, block in self.parts(self.active):
            y = elastic.run(y, block)
        y = self.final(y).mean((2, 3))
        logits: Tensor = self.classifier(self.feature(y))
        return logits

    @torch.no_grad()
    def extract(self, subnet: Subnet) -> SubnetModule:
        """The subnet as an ordinary module in evaluation mode, with weights of its own.

        Its batch-norm statistics are the supernet's, which fit no subnet: `norm.reestimate` comes next.
        """
        plain = SubnetModule(self.ladder, subnet, self.classes)
        for name in ("stem", "final", "feature", "classifier"):
            getattr(plain, name).load_state_dict(getattr(self, name).state_dict())
        for (elastic, block), made in zip(self.parts(subnet), plain.blocks, strict=True):
            elastic.copy_to(cast(InvertedResidual, made), block)
        return plain.eval()


def _place(block: Block) -> str:
    return "first" if block.slot < 0 else f"slot{block.slot}"


def _norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm by the first channels of `norm`: batch statistics in training, running ones otherwise."""
    n = x.shape[1]
    mean, var = cast(Tensor, norm.running_mean)[:n], cast(Tensor, norm.running_var)[:n]
    return F.batch_norm(x, mean, var, norm.weight[:n], norm.bias[:n], norm.training, NORM_MOMENTUM, NORM_EPS)


def _squeeze(layer: SqueezeExcite, x: Tensor, channels: int) -> Tensor:
    """Squeeze-excite by the first channels of `layer`."""
    inner = divisible(channels / SQUEEZE)
    pooled = x.mean((2, 3), keepdim=True)
    small = F.relu(F.conv2d(pooled, layer.reduce.weight[:inner, :channels], _first(layer.reduce.bias, inner)))
    return x * F.hardsigmoid(F.conv2d(small, layer.expand.weight[:channels, :inner], _first(layer.expand.bias, channels)))


def _first(bias: Tensor | None, count: int) -> Tensor | None:
    return None if bias is None else bias[:count]


def _copy_part(target: nn.Conv2d, source: nn.Conv2d, rows: int, columns: int) -> None:
    target.weight.copy_(source.weight[:rows, :columns])
    if target.bias is not None and source.bias is not None:
        target.bias.copy_(source.bias[:rows])


def _copy_norm(target: nn.BatchNorm2d, source: nn.BatchNorm2d) -> None:
    """The first channels' scale, shift and statistics."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(target, name)
        tensor.copy_(getattr(source, name)[: len(tensor)])
