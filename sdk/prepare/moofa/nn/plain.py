"""A subnet as an ordinary torch module: nothing elastic is left in it, and it goes into `sdk.load` as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdk.prepare.moofa.space import SQUEEZE, Block, Ladder, Subnet, blocks, check, divisible

#: What batch norm of every subnet and supernet adds to the variance, and how fast its running statistics move.
NORM_EPS, NORM_MOMENTUM = 1e-5, 0.1


def activation(name: str) -> nn.Module:
    """`name` as a module: "relu" or "hswish"."""
    return nn.ReLU() if name == "relu" else nn.Hardswish()


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm as in all nets of this package."""
    return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)


class SqueezeExcite(nn.Module):
    """x [N, C, H, W] times a gate [N, C, 1, 1] that is made of its mean over the picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = divisible(channels / SQUEEZE)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.expand = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * nn.functional.hardsigmoid(self.expand(nn.functional.relu(self.reduce(pooled))))


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise, squeeze-excite where the ladder has it, 1x1 project, plus the input where shapes allow."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.residual, self.expands = block.residual, block.expands
        hidden = block.hidden
        if block.expands:
            self.expand = nn.Conv2d(block.inputs, hidden, 1, bias=False)
            self.expand_norm = norm(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, block.kernel, block.stride, block.kernel // 2, groups=hidden, bias=False)
        self.depthwise_norm = norm(hidden)
        self.act = activation(block.activation)
        self.squeeze = SqueezeExcite(hidden) if block.squeeze else None
        self.project = nn.Conv2d(hidden, block.outputs, 1, bias=False)
        self.project_norm = norm(block.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, S, S] -> [N, outputs, S', S']."""
        y = self.act(self.expand_norm(self.expand(x))) if self.expands else x
        y = self.act(self.depthwise_norm(self.depthwise(y)))
        y = y if self.squeeze is None else self.squeeze(y)
        y = self.project_norm(self.project(y))
        return x + y if self.residual else y


class SubnetModule(nn.Module):
    """x [N, 3, R, R] float32 in [0, 1] -> logits [N, classes]."""

    def __init__(self, ladder: Ladder, subnet: Subnet, classes: int) -> None:
        super().__init__()
        self.ladder, self.subnet, self.classes = ladder, check(ladder, subnet), classes
        built = blocks(ladder, subnet)
        self.stem = nn.Sequential(nn.Conv2d(3, ladder.stem, 3, ladder.strides[0], 1, bias=False), norm(ladder.stem), activation("hswish"))
        self.blocks = nn.Sequential(*(InvertedResidual(block) for block in built))
        self.final = nn.Sequential(nn.Conv2d(built[-1].outputs, ladder.final, 1, bias=False), norm(ladder.final), activation("hswish"))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.feature = nn.Sequential(nn.Linear(ladder.final, ladder.feature), activation("hswish")) if ladder.feature else nn.Identity()
        self.classifier = nn.Linear(ladder.feature or ladder.final, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, R, R] -> [N, classes]."""
        y: Tensor = self.classifier(self.feature(self.pool(self.final(self.blocks(self.stem(x))))))
        return y


def initialise(net: nn.Module, seed: int) -> None:
    """Kaiming-normal convolutions by their outputs, small classifier, batch norm at one; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            module.weight.data.normal_(0.0, (2.0 / fan_out) ** 0.5, generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.data.normal_(0.0, (1.0 / module.in_features) ** 0.5, generator=generator)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.data.zero_()
