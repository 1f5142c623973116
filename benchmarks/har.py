"""Movement data of 17 people (accelerometer and gyroscope at about 100 Hz), and the small net that is personalised on it.

`windows(device)` cuts the recordings; `split(subject)` gives what one person's net learns from and is tested on; `module()` is
an untrained net, `pretrained(device)` the one that `benchmarks/train_har.py` trained on other people.
Data: Matey-Sanz, Casteleyn, Granell 2023, Data in Brief 109809, CC BY 4.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.small_nets import WEIGHTS

DEVICES = ("phone", "watch")
#: people the shipped weights never saw
HELD_OUT = (5, 9, 13, 17, 19, 22)
#: of these, those on whom recipes are chosen, and those on whom they are judged
CHOSEN_ON, TESTED = HELD_OUT[:2], HELD_OUT[2:]
LENGTH, STRIDE = 128, 32  # samples: 1.28 s, a window every 0.32 s
INPUT_SHAPE = (1, 6, 1, LENGTH)  # float32: acceleration in 10 m/s2, rotation in 3 rad/s; one row, so that 2-D kernels run it
SCALE = np.array([10, 10, 10, 3, 3, 3], np.float32)
#: (channels, kernel, stride) of each separable block, behind a stem of the same kind of row
STEM = (24, 7, 2)
BLOCKS = ((48, 5, 2), (64, 5, 2), (96, 5, 1), (128, 5, 2))


@dataclass(frozen=True)
class Windows:
    """Windows of one device: x [n, 6, 1, 128] float32, labels y [n], and which person and which of their walks each is from."""

    x: np.ndarray
    y: np.ndarray
    subject: np.ndarray
    execution: np.ndarray

    def of(self, picked: np.ndarray) -> Windows:
        """Those that `picked` (a mask or indices) names."""
        return Windows(self.x[picked], self.y[picked], self.subject[picked], self.execution[picked])


def windows(path: Path, device: str, stride: int = STRIDE) -> Windows:
    """Every window of `device` ("phone" or "watch") that lies within one recording, labelled with what fills most of it."""
    with np.load(path, allow_pickle=False) as stored:
        mine = stored["device"] == DEVICES.index(device)
        x, y, subject, execution = (stored[key][mine] for key in ("x", "label", "subject", "execution"))
    first = np.flatnonzero(np.diff(subject.astype(int) * 1000 + execution, prepend=-1))
    starts = [s for a, b in zip(first, [*first[1:], len(y)], strict=True) for s in range(a, b - LENGTH + 1, stride)]
    rows = np.array(starts)[:, None] + np.arange(LENGTH)  # [n, 128]
    label = np.array([np.bincount(y[row], minlength=5).argmax() for row in rows])
    x = (x / SCALE)[rows].transpose(0, 2, 1)[:, :, None]
    return Windows(np.ascontiguousarray(x, np.float32), label.astype(np.int64), subject[rows[:, 0]].astype(int), execution[rows[:, 0]].astype(int))


def split(found: Windows, subject: int, learned: int = 5) -> tuple[Windows, Windows]:
    """(what is learned from: the person's first `learned` walks, what is tested on: their later ones); no window is in both."""
    mine = found.of(found.subject == subject)
    early = mine.execution <= np.unique(mine.execution)[learned - 1]
    return mine.of(early), mine.of(~early)


def module(classes: int = 5) -> Any:
    """The untrained net: [N, 6, 1, 128] -> [N, classes]; a convolution and four separable blocks along time, mean, dense."""
    from torch import nn

    channels, kernel, stride = STEM
    layers, width = _conv(6, channels, kernel, stride, 1), channels
    for out, kernel, stride in BLOCKS:
        layers += _conv(width, width, kernel, stride, width) + _conv(width, out, 1, 1, 1)
        width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def pretrained(device: str) -> Any:
    """The net in evaluation mode, with the weights for "phone" or "watch" that are shipped beside this file."""
    import torch

    net = module()
    with np.load(WEIGHTS / f"har_{device}.npz", allow_pickle=False) as stored:
        state = {key: torch.from_numpy(stored[key].astype(np.float32)) for key in stored.files}
    net.load_state_dict(net.state_dict() | state)
    return net.eval()


def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> list[Any]:
    from torch import nn

    layer = nn.Conv2d(inputs, outputs, (1, kernel), (1, stride), (0, kernel // 2), groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]
