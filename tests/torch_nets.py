"""Small nets in the shapes people deploy, for tests of the way from torch to a board. Written here; random weights, no files.

Every builder is seeded, so that a net is the same in every run, and `settle` gives batch norms statistics and factors as a
trained net has them: with fresh ones (mean 0, variance 1) folding them would be tested by doing nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

torch.set_num_threads(1)


@dataclass(frozen=True)
class Family:
    """How to build a net, and the shape of its one input."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def net(self, seed: int = 0) -> nn.Module:
        """The net in evaluation mode, the same for the same seed."""
        torch.manual_seed(seed)
        return settle(self.build(), torch.randn(16, *self.shape[1:]))

    def samples(self, count: int, seed: int = 1) -> np.ndarray:
        """Smooth random inputs [count, ...]: neighbours are alike, as in pictures and signals."""
        return structured((count, *self.shape[1:]), seed)


def structured(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    """float32 values of which neighbours along the last axes are alike, mean 0, deviation about 1."""
    x = np.random.default_rng(seed).standard_normal(shape)
    for axis in range(max(1, len(shape) - 2), len(shape)):
        x = x + np.roll(x, 1, axis) + np.roll(x, 2, axis)
    return (x / x.std()).astype(np.float32)


def settle(net: nn.Module, x: Tensor) -> nn.Module:
    """Batch norms with the statistics of `x` and factors around 1, in evaluation mode."""
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = None  # plain average
            nn.init.uniform_(layer.weight, 0.6, 1.4)
            nn.init.uniform_(layer.bias, -0.3, 0.3)
    with torch.no_grad():
        net.train()(x)
    return net.eval()


def conv_bn(c: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: nn.Module | None = None) -> nn.Sequential:
    """Convolution, batch norm, activation; [N, c, H, W] -> [N, out, H/stride, W/stride]."""
    layers = [nn.Conv2d(c, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]
    return nn.Sequential(*layers, *([act] if act is not None else []))


class Head(nn.Sequential):
    """Global average, dropout, linear."""

    def __init__(self, c: int, classes: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(c, classes))


def mobilenet_v1() -> nn.Module:
    """Depthwise separable layers with ReLU."""

    def block(c: int, out: int, stride: int) -> nn.Sequential:
        return nn.Sequential(conv_bn(c, c, 3, stride, c, nn.ReLU()), conv_bn(c, out, 1, act=nn.ReLU()))

    return nn.Sequential(conv_bn(3, 8, 3, 2, act=nn.ReLU()), block(8, 16, 1), block(16, 24, 2), block(24, 24, 1), Head(24, 10))


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole picture holds."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(c, c // 4, 1), nn.Conv2d(c // 4, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        share = F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * share


class Inverted(nn.Module):
    """Inverted residual: expand, depthwise, (squeeze-excite,) project; added to its input where the shapes agree."""

    def __init__(self, c: int, out: int, kernel: int = 3, stride: int = 1, grow: int = 4, act: type[nn.Module] = nn.ReLU6, excite: bool = False) -> None:
        super().__init__()
        wide = c * grow
        middle = [SqueezeExcite(wide)] if excite else []
        self.body = nn.Sequential(conv_bn(c, wide, 1, act=act()), conv_bn(wide, wide, kernel, stride, wide, act()), *middle, conv_bn(wide, out, 1))
        self.residual = stride == 1 and c == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y if self.residual else y


def mobilenet_v2() -> nn.Module:
    """Inverted residuals with ReLU6."""
    blocks = [Inverted(8, 8), Inverted(8, 12, stride=2), Inverted(12, 12)]
    return nn.Sequential(conv_bn(3, 8, 3, 2, act=nn.ReLU6()), *blocks, conv_bn(12, 32, 1, act=nn.ReLU6()), Head(32, 10))


def mobilenet_v3() -> nn.Module:
    """Inverted residuals with squeeze-excite and hard-swish, a 5x5 one among them."""
    blocks = [Inverted(8, 8, act=nn.ReLU, excite=True), Inverted(8, 12, 5, 2, act=nn.Hardswish, excite=True), Inverted(12, 12, 5, act=nn.Hardswish, excite=True)]  # noqa: E501
    return nn.Sequential(conv_bn(3, 8, 3, 2, act=nn.Hardswish()), *blocks, conv_bn(12, 32, 1, act=nn.Hardswish()), Head(32, 10))


def mcunet() -> nn.Module:
    """Inverted residuals with 3x3, 5x5 and 7x7 depthwise kernels."""
    blocks = [Inverted(8, 8, 7, grow=3), Inverted(8, 12, 5, 2, grow=3), Inverted(12, 12, 3, grow=4), Inverted(12, 16, 7, 2, grow=3)]
    return nn.Sequential(conv_bn(3, 8, 3, 2, act=nn.ReLU6()), *blocks, Head(16, 10))


class Residual(nn.Module):
    """Two 3x3 layers beside a shortcut, which is a 1x1 layer where the shape changes."""

    def __init__(self, c: int, out: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv_bn(c, out, 3, stride, act=nn.ReLU()), conv_bn(out, out)
        self.shortcut = conv_bn(c, out, 1, stride) if stride != 1 or c != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


def resnet() -> nn.Module:
    """A ResNet of three blocks behind a max pool."""
    stem = nn.Sequential(conv_bn(3, 8, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(stem, Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 24, 2), Head(24, 10))


class Attention(nn.Module):
    """Self-attention written with `F.scaled_dot_product_attention`."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(n, length, width))


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, causal)
        self.norm2, self.feed = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Encoder(nn.Module):
    """Patches of a sequence [N, length, features], positions, layers, mean, classes."""

    def __init__(self, layers: nn.Module, features: int = 8, length: int = 12, width: int = 16) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(features, width), nn.Parameter(torch.randn(1, length, width) * 0.3)
        self.layers, self.norm, self.head = layers, nn.LayerNorm(width), nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(x) + self.position)).mean(1))


def encoder_sdpa() -> nn.Module:
    """A transformer encoder written by hand on scaled_dot_product_attention."""
    return Encoder(nn.Sequential(EncoderLayer(16, 2), EncoderLayer(16, 2)))


def encoder_causal() -> nn.Module:
    """The same where a place sees only those before it."""
    return Encoder(nn.Sequential(EncoderLayer(16, 2, causal=True), EncoderLayer(16, 2, causal=True)))


def encoder_torch() -> nn.Module:
    """torch's own nn.TransformerEncoder, on nn.MultiheadAttention."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, activation="gelu", batch_first=True)
    return Encoder(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


class Vit(nn.Module):
    """Patches of a picture, a class token, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16) * 0.3)
        self.layers, self.norm, self.head = nn.Sequential(EncoderLayer(16, 2), EncoderLayer(16, 2)), nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1) + self.position
        return self.head(self.norm(self.layers(y))[:, 0])


class Keywords(nn.Module):
    """1-D convolutions along time on [N, features, time]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(10, 16, 5, 2, 2, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
            nn.Conv1d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
            nn.Conv1d(16, 24, 3, padding=2, dilation=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(24, 24, 1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.head(F.adaptive_avg_pool1d(self.body(x), 1).squeeze(-1)), -1)


class Unet(nn.Module):
    """Down and up again, what was seen on the way down joined on the way up; a mask per pixel."""

    def __init__(self, up: str = "bilinear") -> None:
        super().__init__()
        self.first, self.second, self.deep = conv_bn(3, 8, act=nn.ReLU()), conv_bn(8, 12, act=nn.ReLU()), conv_bn(12, 16, act=nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 16, 2, 2) if up == "transposed" else nn.Upsample(scale_factor=2, mode=up)
        self.up2 = nn.ConvTranspose2d(12, 12, 3, 2, 1, 1) if up == "transposed" else nn.Upsample(scale_factor=2, mode="nearest")
        self.back, self.last, self.mask = conv_bn(28, 12, act=nn.ReLU()), conv_bn(20, 8, act=nn.ReLU()), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = self.second(F.max_pool2d(a, 2))
        c = self.deep(F.max_pool2d(b, 2))
        d = self.back(torch.cat([self.up(c), b], 1))
        mask = self.mask(self.last(torch.cat([self.up2(d), a], 1)))
        return mask.softmax(1) if isinstance(self.up, nn.Upsample) else mask


FAMILIES: dict[str, Family] = {
    "mobilenet_v1": Family(mobilenet_v1, (1, 3, 32, 32)),
    "mobilenet_v2": Family(mobilenet_v2, (1, 3, 32, 32)),
    "mobilenet_v3": Family(mobilenet_v3, (1, 3, 32, 32)),
    "resnet": Family(resnet, (1, 3, 32, 32)),
    "mcunet": Family(mcunet, (1, 3, 32, 32)),
    "encoder_sdpa": Family(encoder_sdpa, (1, 12, 8)),
    "encoder_causal": Family(encoder_causal, (1, 12, 8)),
    "encoder_torch": Family(encoder_torch, (1, 12, 8)),
    "vit": Family(Vit, (1, 3, 32, 32)),
    "keywords": Family(Keywords, (1, 10, 40)),
    "unet": Family(Unet, (1, 3, 16, 16)),
    "unet_transposed": Family(lambda: Unet("transposed"), (1, 3, 16, 16)),
}


def outputs_of(net: nn.Module, *inputs: Any) -> tuple[np.ndarray, ...]:
    """What torch computes, as arrays; `inputs` are arrays."""
    with torch.no_grad():
        y = net(*(torch.from_numpy(x) for x in inputs))
    return tuple(v.numpy() for v in (y if isinstance(y, (tuple, list)) else (y,)))
