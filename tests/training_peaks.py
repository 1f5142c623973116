"""Three small torch nets, steps of training on them, and what the planner predicts of these: for tests and for `benchmarks.step_rates`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from sdk.planner.training.options import Setting
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.planner.training.walk import walk_of
from sdk.training.nn.calibrate import Calibration, calibrate, ranks_for
from sdk.training.nn.program import TrainableProgram, read_program
from sdk.training.nn.trainer import Trainer

CLASSES = 10
#: Methods that need no calibration.
PLAIN = ("exact", "bias", "recompute", "channels")


class Inverted(nn.Module):
    """An inverted residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 6 * inputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.adds else y


class Basic(nn.Module):
    """A residual block of two 3 x 3 layers."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.second, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.past = nn.Conv2d(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm2(self.second(torch.relu(self.norm(self.first(x))))) + self.past(x))


def _stem(channels: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(3, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU6()]


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def _mobile() -> nn.Module:
    blocks = [Inverted(16, 16, 1), Inverted(16, 24, 2), Inverted(24, 24, 1), Inverted(24, 32, 2), Inverted(32, 32, 1)]
    return nn.Sequential(*_stem(16, 2), *blocks, nn.Conv2d(32, 128, 1), nn.ReLU6(), *_head(128))


def _plain() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2), (64, 128, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, *_head(128))


def _residual() -> nn.Module:
    return nn.Sequential(*_stem(16, 1), Basic(16, 16, 1), Basic(16, 32, 2), Basic(32, 32, 1), Basic(32, 64, 2), *_head(64))


NETS: dict[str, Callable[[], nn.Module]] = {"mobile": _mobile, "plain": _plain, "residual": _residual}


@cache
def program(net: str, side: int) -> TrainableProgram:
    """The net of that name for images of that side."""
    torch.manual_seed(0)
    return read_program(module(net), torch.randn(2, 3, side, side))


def module(net: str) -> nn.Module:
    """The net itself, its batch norms with statistics of some data, ready to be read."""
    torch.manual_seed(0)
    made = NETS[net]()
    made.train()(torch.randn(16, 3, 32, 32))
    return made.eval()


def data(side: int, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [count, 3, side, side] of smooth random blobs, and labels."""
    made = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 4, 4, generator=made)
    x = nn.functional.interpolate(coarse, side, mode="bilinear") + 0.2 * torch.randn(count, 3, side, side, generator=made)
    return x, torch.randint(0, CLASSES, (count,), generator=made)


@cache
def calibration(net: str, side: int) -> Calibration:
    """A calibration for every compressing method at eps 0.8."""
    x, y = data(side, 64, 1)
    return calibrate(program(net, side), list(zip(x.split(16), y.split(16), strict=True)), (0.8,), ("fixed", "asi", "adapter"))


def choices(net: str, side: int, method: str, layers: int, factors: str = "float32") -> tuple[Choice, ...]:
    """The last `layers` layers by one method at eps 0.8, or with half of their channels."""
    if method in PLAIN:
        fraction = 0.5 if method == "channels" else 1.0
        return tuple(Choice(record.name, method, fraction=fraction, factors=factors) for record in program(net, side).layers[-layers:])
    found = []
    for record in calibration(net, side).records[-layers:]:
        ranks = ranks_for(record, method, 0.8) if method != "adapter" or record.groups == 1 else ()
        found.append(Choice(record.name, method, 0.8, ranks, factors=factors) if any(ranks) or method == "hosvd" else Choice(record.name))
    return tuple(found)


def trainer(net: str, side: int, batch: int, method: str, layers: int) -> Callable[[], Any]:
    """One step of training, ready to run: the task that is measured. A step on two samples has been taken: libraries are loaded."""
    made = Trainer(program(net, side), choices(net, side, method, layers), _if_needed(net, side, method), Training(batch=batch))
    x, y = data(side, batch)
    made.step(x[:2], y[:2])
    return lambda: made.step(x, y)


def _if_needed(net: str, side: int, method: str) -> Calibration | None:
    return None if method in PLAIN else calibration(net, side)


def setting(net: str, side: int, batch: int, rates: Any = None) -> Setting:
    """What the planner computes the same step from."""
    found = program(net, side)
    more = {} if rates is None else {"rates": rates}
    return Setting(walk_of(found), found.layers, Training(batch=batch), ranks_for, batch, **more)


def predicted_seconds(net: str, side: int, batch: int, method: str, layers: int, rates: Any) -> float:
    """The planner's estimate of one step."""
    from sdk.planner.training.make import step_seconds

    made = setting(net, side, batch, rates)
    known = made if method in PLAIN else replace(made, records=calibration(net, side).records)
    return step_seconds(known, choices(net, side, method, layers))
