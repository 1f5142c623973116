"""Small torch nets of the families people deploy, and their ONNX files as torch writes them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)


def _block(i: int, o: int, kernel: int, stride: int, groups: int = 1, act: type[nn.Module] = nn.ReLU6) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(o), act())


class SqueezeExcite(nn.Module):
    """Channel gates, as in MobileNetV3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 2, 1), nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Inverted(nn.Module):
    """Expand, depthwise, (gate,) project, with a shortcut where shapes allow."""

    def __init__(self, i: int, o: int, kernel: int, stride: int, act: type[nn.Module] = nn.ReLU6, gate: bool = False) -> None:
        super().__init__()
        hidden = 2 * i
        layers: list[nn.Module] = [_block(i, hidden, 1, 1, act=act), _block(hidden, hidden, kernel, stride, hidden, act)]
        layers += [SqueezeExcite(hidden)] if gate else []
        self.body = nn.Sequential(*layers, nn.Conv2d(hidden, o, 1, bias=False), nn.BatchNorm2d(o))
        self.shortcut = stride == 1 and i == o

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


def _head(i: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, 5)]


def mobilenet_v1() -> nn.Module:
    return nn.Sequential(_block(3, 8, 3, 2), _block(8, 8, 3, 1, 8), _block(8, 12, 1, 1), _block(12, 12, 3, 2, 12), _block(12, 16, 1, 1), *_head(16))


def mobilenet_v2() -> nn.Module:
    return nn.Sequential(_block(3, 8, 3, 2), Inverted(8, 8, 3, 1), Inverted(8, 12, 3, 2), Inverted(12, 12, 3, 1), *_head(12))


def mobilenet_v3() -> nn.Module:
    return nn.Sequential(_block(3, 8, 3, 2, act=nn.Hardswish), Inverted(8, 8, 3, 1, nn.Hardswish, True), Inverted(8, 12, 5, 2, nn.Hardswish, True), *_head(12))


def mcunet() -> nn.Module:
    return nn.Sequential(_block(3, 8, 3, 2), Inverted(8, 8, 7, 1), Inverted(8, 12, 5, 2), Inverted(12, 12, 3, 1), *_head(12))


class Residual(nn.Module):
    """Two convolutions and a shortcut with its own projection."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(i, o, 3, stride, act=nn.ReLU), nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o))
        self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


def resnet() -> nn.Module:
    return nn.Sequential(_block(3, 8, 3, 1, act=nn.ReLU), nn.MaxPool2d(3, 2, 1), Residual(8, 8, 1), Residual(8, 16, 2), *_head(16))


class Encoder(nn.Module):
    """A small transformer on tokens [1, 6, 8]: attention, gelu, layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True)
        self.place = nn.Parameter(torch.randn(1, 6, 8) * 0.1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x + self.place).mean(1))


class Unet(nn.Module):
    """Down, up with a transposed convolution and with an upsampling, joined; group and instance norms."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8)
        self.up, self.other = nn.ConvTranspose2d(8, 4, 2, 2), nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 4, 1))
        self.norm2, self.out = nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 2, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.leaky_relu(self.norm(self.down(x)), 0.1)
        return self.out(F.silu(self.norm2(torch.cat([self.up(y), self.other(y)], 1))))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mobilenet_v1": (mobilenet_v1, (1, 3, 16, 16)),
    "mobilenet_v2": (mobilenet_v2, (1, 3, 16, 16)),
    "mobilenet_v3": (mobilenet_v3, (1, 3, 16, 16)),
    "mcunet": (mcunet, (1, 3, 16, 16)),
    "resnet": (resnet, (1, 3, 16, 16)),
    "encoder": (Encoder, (1, 6, 8)),
    "unet": (Unet, (1, 3, 8, 8)),
}


@cache
def net(name: str) -> nn.Module:
    """The net in inference, its batch norms with statistics of their own."""
    torch.manual_seed(0)
    made = NETS[name][0]().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made


def samples(name: str, count: int = 8) -> list[np.ndarray]:
    """Normal random inputs."""
    return [np.random.default_rng(i).normal(size=NETS[name][1]).astype(np.float32) for i in range(count)]


def exported(name: str, dynamo: bool = True) -> bytes:
    """The net's .onnx file, opset 18; `dynamo=False` is torch's older exporter and opset 14, where gelu and layer norms are many operators."""
    return _exported(name, dynamo)


@cache
def _exported(name: str, dynamo: bool) -> bytes:
    opset = 18 if dynamo else 14
    file, example = io.BytesIO(), torch.from_numpy(samples(name, 1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(net(name), (example,), dynamo=True, opset_version=opset, input_names=["x"], verbose=False)
            assert program is not None
            file.write(program.model_proto.SerializeToString())
        else:
            torch.onnx.export(net(name), (example,), file, dynamo=False, opset_version=opset, input_names=["x"])  # type: ignore[arg-type]
    return file.getvalue()
