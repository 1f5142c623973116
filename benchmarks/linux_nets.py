"""The nets that the Linux comparison runs: MobileNetV2, ResNet-18, an MCUNet-like net, ViT-Tiny and a small text transformer.

The published structures, written here, with random weights from a fixed seed: good for speed, memory and numerics. For
accuracy there are the trained nets of `benchmarks.small_nets`. `build(name)` gives the full size; every builder takes its
sizes, so that a test can have the same net small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import small_nets

if TYPE_CHECKING:
    from torch import nn

#: (expansion, channels, repeats, stride of the first) of MobileNetV2's inverted residuals, width 1.0
MOBILENET_V2: tuple[tuple[int, int, int, int], ...] = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
TOKENS = 1000  # of the text transformer's vocabulary


@dataclass(frozen=True)
class Net:
    """How to build a net, and its one input: `shape`, batch included, and whether it holds tokens (int64) or numbers (float32)."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    tokens: bool = False

    def module(self, seed: int = 0) -> nn.Module:
        """The net in evaluation mode, the same for the same seed."""
        import torch

        torch.manual_seed(seed)
        return settled(self.build(), self.samples(4, seed=9))

    def samples(self, count: int, seed: int = 1) -> list[np.ndarray]:
        """`count` inputs of the net's shape: smooth random pictures, or random tokens."""
        rng = np.random.default_rng(seed)
        if self.tokens:
            return [rng.integers(0, TOKENS, self.shape, dtype=np.int64) for _ in range(count)]
        return [smooth(rng, self.shape) for _ in range(count)]


def build(name: str, seed: int = 0) -> nn.Module:
    """The net `name` of NETS at full size. Raises KeyError for a name that is not there."""
    return NETS[name].module(seed)


def smooth(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """float32 values around 0, deviation 1, of which neighbours along the last two axes are alike, as in pictures."""
    x = rng.standard_normal(tuple(shape)).astype(np.float32)
    for axis in range(max(1, len(shape) - 2), len(shape)):
        x = x + np.roll(x, 1, axis) + np.roll(x, 2, axis)
    return (x / x.std()).astype(np.float32)


def settled(net: nn.Module, samples: Sequence[np.ndarray]) -> nn.Module:
    """The net in evaluation mode, its batch norms with the statistics of `samples`: fresh ones would be folded into nothing."""
    import torch
    from torch import nn

    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = None  # plain average
        nn.init.uniform_(layer.weight, 0.7, 1.3)
        nn.init.uniform_(layer.bias, -0.2, 0.2)
    if norms:
        with torch.no_grad():
            net.train()(torch.from_numpy(np.concatenate(samples)))
    return net.eval()


# ---- pictures ----


def conv_bn(c: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act: Callable[[], nn.Module] | None = None) -> nn.Sequential:
    """Convolution, batch norm, activation: [N, c, H, W] -> [N, out, H/stride, W/stride]."""
    from torch import nn

    layers = [nn.Conv2d(c, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]
    return nn.Sequential(*layers, *([act()] if act else []))


def mobilenet_v2(blocks: Sequence[tuple[int, int, int, int]] = MOBILENET_V2, stem: int = 32, head: int = 1280, classes: int = 1000) -> nn.Module:
    """MobileNetV2: [N, 3, H, W] -> [N, classes] logits."""
    from torch import nn

    layers: list[Any] = [conv_bn(3, stem, 3, 2, act=nn.ReLU6)]
    width = stem
    for expansion, channels, repeats, first in blocks:
        for i in range(repeats):
            layers.append(small_nets._inverted_residual(width, expansion, channels, first if i == 0 else 1, 3))
            width = channels
    layers.append(conv_bn(width, head, 1, act=nn.ReLU6))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(head, classes))


def resnet(widths: Sequence[int] = (64, 128, 256, 512), depth: int = 2, classes: int = 1000) -> nn.Module:
    """ResNet of basic blocks, `depth` at each width (2 at four widths: ResNet-18): [N, 3, H, W] -> [N, classes] logits."""
    from torch import nn

    layers: list[Any] = [conv_bn(3, widths[0], 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    before = widths[0]
    for i, width in enumerate(widths):
        for j in range(depth):
            layers.append(_basic_block(before, width, 2 if i and not j else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def _basic_block(c: int, out: int, stride: int) -> nn.Module:
    from torch import nn

    class BasicBlock(nn.Module):
        """Two 3x3 layers beside a shortcut, which is a 1x1 layer where the shape changes."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = conv_bn(c, out, 3, stride, act=nn.ReLU), conv_bn(out, out, 3)
            self.shortcut = conv_bn(c, out, 1, stride) if stride != 1 or c != out else nn.Identity()

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.second(self.first(x)) + self.shortcut(x))

    return BasicBlock()


# ---- transformers ----


def _layer(width: int, heads: int) -> nn.Module:
    import torch.nn.functional as F
    from torch import nn

    class Layer(nn.Module):
        """Pre-norm transformer layer: [N, L, width] -> the same."""

        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:
            n, length, _ = x.shape
            q, k, v = self.qkv(self.norm1(x)).reshape(n, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))
            return x + self.feed(self.norm2(x))

    return Layer()


def vit(side: int = 224, patch: int = 16, width: int = 192, layers: int = 12, heads: int = 3, classes: int = 1000) -> nn.Module:
    """Vision transformer (ViT-Tiny by default): [N, 3, side, side] -> [N, classes] logits."""
    import torch
    from torch import nn

    class Vit(nn.Module):
        """Patches, a class token, positions, layers, a head on the class token."""

        def __init__(self) -> None:
            super().__init__()
            self.patches, self.token = nn.Conv2d(3, width, patch, patch), nn.Parameter(torch.randn(1, 1, width) * 0.02)
            self.position = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width) * 0.02)
            self.layers, self.norm, self.head = nn.Sequential(*(_layer(width, heads) for _ in range(layers))), nn.LayerNorm(width), nn.Linear(width, classes)

        def forward(self, x: Any) -> Any:
            y = self.patches(x).flatten(2).transpose(1, 2)
            y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1) + self.position
            return self.head(self.norm(self.layers(y))[:, 0])

    return Vit()


def text_transformer(length: int = 64, width: int = 256, layers: int = 4, heads: int = 4, classes: int = 16, vocabulary: int = TOKENS) -> nn.Module:
    """Encoder of tokens: [N, length] int64 -> [N, classes] logits."""
    import torch
    from torch import nn

    class Text(nn.Module):
        """Embedding, positions, layers, the mean over the sequence, a head."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.position = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(1, length, width) * 0.1)
            self.layers, self.norm, self.head = nn.Sequential(*(_layer(width, heads) for _ in range(layers))), nn.LayerNorm(width), nn.Linear(width, classes)

        def forward(self, tokens: Any) -> Any:
            return self.head(self.norm(self.layers(self.embedding(tokens) + self.position)).mean(1))

    return Text()


#: name -> the net at the size that is published
NETS: dict[str, Net] = {
    "mobilenetv2": Net(mobilenet_v2, (1, 3, 224, 224)),
    "resnet18": Net(resnet, (1, 3, 224, 224)),
    "mcunet_like": Net(lambda: small_nets.module("mcunet_like"), small_nets.INPUT_SHAPE),
    "vit_tiny": Net(vit, (1, 3, 224, 224)),
    "text_transformer": Net(text_transformer, (1, 64), tokens=True),
}
#: the same structures, small enough for the everyday tests
SMALL: dict[str, Net] = {
    "mobilenetv2": Net(lambda: mobilenet_v2(((1, 8, 1, 1), (4, 12, 2, 2), (4, 16, 1, 2)), 8, 32, 10), (1, 3, 32, 32)),
    "resnet18": Net(lambda: resnet((8, 16), 1, 10), (1, 3, 32, 32)),
    "mcunet_like": Net(lambda: small_nets.module("mcunet_like"), small_nets.INPUT_SHAPE),
    "vit_tiny": Net(lambda: vit(32, 8, 48, 2, 3, 10), (1, 3, 32, 32)),
    "text_transformer": Net(lambda: text_transformer(16, 32, 1, 2, 4), (1, 16), tokens=True),
}
