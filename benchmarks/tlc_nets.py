"""Small networks of the five families that layers are removed from, for 32x32 pictures and short texts; random weights, the same for the same seed.

Real structure at a fraction of the width: ResNet-18 and MobileNetV2 (`benchmarks.small_nets`), VGG-16 with batch norm, a Swin transformer with
shifted windows and patch merging, and BERT. `net(name)` makes one with batch-norm statistics as training leaves them, `example(name)` an input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks import small_nets

#: Widths of VGG-16's convolutions at an eighth; 0 is a pooling.
VGG16_EIGHTH = (8, 8, 0, 16, 16, 0, 32, 32, 32, 0, 64, 64, 64, 0, 64, 64, 64, 0)
VOCABULARY, TOKENS = 100, 16


def vgg16_bn(widths: Sequence[int] = VGG16_EIGHTH, classes: int = 10) -> nn.Module:
    """[N, 3, 32, 32] -> [N, classes]: 13 convolutions with batch norm and ReLU, then two hidden linear layers with dropout."""
    layers: list[nn.Module] = []
    before = 3
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)] if width else [nn.MaxPool2d(2)]
        before = width or before
    hidden = [nn.Linear(before, before), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(before, before), nn.ReLU(inplace=True), nn.Dropout()]
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), *hidden, nn.Linear(before, classes))


def mobilenetv2_short(classes: int = 10) -> nn.Module:
    """[N, 3, 32, 32] -> [N, classes]: MobileNetV2's stem, its first five blocks, and its head; for tests, which have no time for seventeen."""
    head = nn.Sequential(nn.Conv2d(16, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6())
    return nn.Sequential(*small_nets.module("mobilenetv2_035")[:6], head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


class Attention(nn.Module):
    """x [N, T, C] -> [N, T, C], every token with every other; `bias` adds a learned number for each pair, as windows have."""

    def __init__(self, width: int, heads: int, tokens: int, bias: bool) -> None:
        super().__init__()
        self.heads, self.tokens, self.width = heads, tokens, width
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(0.02 * torch.randn(heads, tokens, tokens)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        size = self.width // self.heads
        q, k, v = self.qkv(x).view(-1, self.tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * size**-0.5
        weights = (scores if self.bias is None else scores + self.bias).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(-1, self.tokens, self.width))


class Mlp(nn.Sequential):
    """Linear, GELU, linear."""

    def __init__(self, width: int, grow: int = 4) -> None:
        super().__init__(nn.Linear(width, grow * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(grow * width, width))


class SwinBlock(nn.Module):
    """x [N, S, S, C]: attention within windows, moved by half a window where `shifted`, then the MLP; both residual, norm first."""

    def __init__(self, width: int, heads: int, side: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.side, self.window, self.width = side, window, width
        self.shift = window // 2 if shifted and side > window else 0
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, heads, window * window, bias=True), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        s, w, c = self.side, self.window, self.width
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        windows = y.view(-1, s // w, w, s // w, w, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, c)
        y = self.attention(windows).view(-1, s // w, s // w, w, w, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s, s, c)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """x [N, S, S, C] -> [N, S/2, S/2, 2 C]: four neighbours side by side, norm, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduce(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    """[N, 3, 32, 32] -> [N, classes]: patches of 4, two stages of two blocks, windows of 4."""

    def __init__(self, width: int = 16, depths: Sequence[int] = (2, 2), classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        stages: list[nn.Module] = []
        side = 8
        for stage, depth in enumerate(depths):
            if stage:
                stages.append(PatchMerging(width))
                width, side = 2 * width, side // 2
            stages += [SwinBlock(width, width // 8, side, 4, bool(i % 2)) for i in range(depth)]
        self.stages, self.norm, self.head = nn.Sequential(*stages), nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stages(self.patches(x).permute(0, 2, 3, 1))
        return self.head(self.norm(y).mean((1, 2)))


class BertLayer(nn.Module):
    """x [N, T, C]: attention, then the MLP; both residual, norm last."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.norm1 = Attention(width, heads, TOKENS, bias=False), nn.LayerNorm(width)
        self.grow, self.shrink, self.norm2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.shrink(nn.functional.gelu(self.grow(x))))


class Bert(nn.Module):
    """Token numbers [N, 16] -> [N, classes]: embeddings with places, layers, tanh of the first token."""

    def __init__(self, width: int = 32, layers: int = 2, classes: int = 2) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, width), nn.Parameter(0.02 * torch.randn(TOKENS, width))
        self.norm, self.layers = nn.LayerNorm(width), nn.Sequential(*[BertLayer(width, 2) for _ in range(layers)])
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        y = self.layers(self.norm(self.words(tokens) + self.places))
        return self.head(torch.tanh(self.pooler(y[:, 0])))


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: small_nets.module("resnet18_quarter"), "mobilenetv2": lambda: small_nets.module("mobilenetv2_035"),
    "mobilenetv2_short": mobilenetv2_short, "vgg16_bn": vgg16_bn, "swin": Swin, "bert": Bert,
}  # fmt: skip


def example(name: str, count: int = 2, seed: int = 0) -> Tensor:
    """Inputs of a network: pictures [count, 3, 32, 32] in [0, 1], or token numbers [count, 16]."""
    generator = torch.Generator().manual_seed(seed)
    if name == "bert":
        return torch.randint(0, VOCABULARY, (count, TOKENS), generator=generator)
    return torch.rand(count, 3, 32, 32, generator=generator)


def net(name: str, seed: int = 0) -> nn.Module:
    """The network in evaluation mode; batch norms have statistics of random inputs and factors that are not one."""
    torch.manual_seed(seed)
    made = NETS[name]()
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain average
            nn.init.uniform_(layer.weight, 0.6, 1.4)
            nn.init.uniform_(layer.bias, -0.4, 0.4)
    with torch.no_grad():
        made.train()(example(name, 8, seed + 1))
    return made.eval()
