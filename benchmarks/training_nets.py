"""The nets that training is measured on, with real pictures: two trained, two with random weights, one trained at twice the size.

`build(name)` gives a net in evaluation mode; `pictures(name, count)` gives CIFAR-10 pictures of another camera for it, with their
labels: what a net that was trained on clean pictures goes on learning from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import linux_nets, small_nets
from benchmarks.rows import ROOT
from benchmarks.shifts import shift
from benchmarks.train_small import images

DATA = Path(os.environ.get("EMBARQ_SHARED") or ROOT.parent.parent / "shared" / "data")


@dataclass(frozen=True)
class Net:
    """How to build a net, the side of its pictures, and whether its weights were trained (only then an accuracy means something)."""

    build: Callable[[], Any]
    side: int
    trained: bool


def resnet18_32() -> Any:
    """ResNet-18 as usual for 32x32: a 3x3 stem of stride 1, no pooling behind it. Random weights, settled on pictures."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = linux_nets.resnet(classes=10)
    net[0][0], net[1] = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return linux_nets.settled(net, [pictures_of(64, 32, seed=9)[0]])


def vit_32() -> Any:
    """A small vision transformer: 64 patches of 4x4 and a class token, width 96, four layers. Random weights."""
    import torch

    torch.manual_seed(0)
    return linux_nets.vit(side=32, patch=4, width=96, layers=4, heads=3, classes=10).eval()


NETS: dict[str, Net] = {
    "mobilenetv2_035_32": Net(lambda: small_nets.pretrained("mobilenetv2_035"), 32, True),
    "mobilenetv2_035_64": Net(lambda: small_nets.pretrained("mobilenetv2_035"), 64, True),
    "resnet18_32": Net(resnet18_32, 32, False),
    "mcunet_like_32": Net(lambda: small_nets.pretrained("mcunet_like"), 32, True),
    "vit_32": Net(vit_32, 32, False),
}


def build(name: str) -> Any:
    """The net `name` of NETS, in evaluation mode. Raises KeyError for a name that is not there."""
    return NETS[name].build().eval()


def pictures(name: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`count` shifted pictures of the net's size, float32 [count, 3, side, side] in [0, 1], and labels int64 [count]."""
    return pictures_of(count, NETS[name].side, seed)


def clean_pictures(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures as the net was trained on them, in the net's size, and labels: what its maker calibrates with."""
    x, y = training_pictures()
    picked = np.random.default_rng(99).permutation(len(y))[:count]
    return to_input(x[picked], NETS[name].side), y[picked]


def pictures_of(count: int, side: int, seed: int, kind: str = "night", severity: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Training pictures in an order that `seed` gives, shifted, enlarged to `side` where that is more than 32; and their labels."""
    x, y = training_pictures()
    picked = np.random.default_rng(seed).permutation(len(y))[:count]
    return to_input(shift(x[picked], kind, severity, seed), side), y[picked]


@cache
def training_pictures(count: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """`count` of the training pictures, evenly over all, uint8 [count, 32, 32, 3], and labels."""
    return images(DATA / "cifar10" / "cifar10_jpeg_train.npz", count)


def to_input(x: np.ndarray, side: int = 32) -> np.ndarray:
    """uint8 [n, 32, 32, 3] -> float32 [n, 3, side, side] in [0, 1], bilinear."""
    import torch

    y = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).float() / 255
    return (y if side == y.shape[-1] else torch.nn.functional.interpolate(y, (side, side), mode="bilinear")).numpy()
