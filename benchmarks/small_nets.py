"""Three small image classifiers for 32x32 pictures: MobileNetV2-0.35, a net built as MCUNet's are, ResNet-18 at a quarter of its widths.

All are the published structures with the first strides taken out, as usual for 32x32 input (the stem and, in
MobileNetV2, nothing else keeps full resolution; ResNet-18's 7x7 stem and its pool become one 3x3 layer). `module(name)`
makes one; `pretrained(name)` loads the weights that `benchmarks/train_small.py` made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

WEIGHTS = Path(__file__).resolve().parent / "weights"

#: (expansion, channels, stride, kernel) of every inverted residual block
MOBILENET_V2_035: tuple[tuple[int, int, int, int], ...] = (
    (1, 8, 1, 3),
    (6, 8, 2, 3), (6, 8, 1, 3),
    (6, 16, 2, 3), (6, 16, 1, 3), (6, 16, 1, 3),
    (6, 24, 2, 3), (6, 24, 1, 3), (6, 24, 1, 3), (6, 24, 1, 3),
    (6, 32, 1, 3), (6, 32, 1, 3), (6, 32, 1, 3),
    (6, 56, 2, 3), (6, 56, 1, 3), (6, 56, 1, 3),
    (6, 112, 1, 3),
)  # fmt: skip
#: kernels and expansions change from block to block, as the search behind MCUNet chooses them
MCUNET_LIKE: tuple[tuple[int, int, int, int], ...] = (
    (1, 8, 1, 3),
    (3, 16, 2, 7), (3, 16, 1, 3), (4, 16, 1, 5),
    (5, 24, 2, 7), (4, 24, 1, 5), (3, 24, 1, 3),
    (6, 40, 2, 5), (4, 40, 1, 7), (4, 40, 1, 3),
    (5, 64, 1, 5), (4, 64, 1, 3),
    (5, 96, 2, 5), (4, 96, 1, 3),
)  # fmt: skip
#: (channels, stride) of every basic block
RESNET18_QUARTER: tuple[tuple[int, int], ...] = ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1))
#: name -> (blocks, channels of the stem, channels of the last 1x1 convolution or 0 for none)
NETS: dict[str, tuple[tuple[tuple[int, ...], ...], int, int]] = {
    "mobilenetv2_035": (MOBILENET_V2_035, 16, 1280),
    "mcunet_like": (MCUNET_LIKE, 16, 0),
    "resnet18_quarter": (RESNET18_QUARTER, 16, 0),
}
#: Those of residual blocks of two 3x3 layers; the others have inverted residuals.
RESNETS = ("resnet18_quarter",)
CLASSES = 10
INPUT_SHAPE = (1, 3, 32, 32)  # float32, pixel / 255


def module(name: str) -> Any:
    """An untrained `nn.Module` in training mode; input [N, 3, 32, 32] in [0, 1], output [N, 10] logits."""
    from torch import nn

    blocks, stem, head = NETS[name]
    layers: list[nn.Module] = [_conv(3, stem, 3, 1, 1, "relu" if name in RESNETS else "relu6")]
    width = stem
    for block in blocks:
        layers.append(_residual(width, *block) if name in RESNETS else _inverted_residual(width, *block))
        width = block[0] if name in RESNETS else block[1]
    if head:
        layers.append(_conv(width, head, 1, 1, 1, "relu6"))
        width = head
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def pretrained(name: str) -> Any:
    """The net in evaluation mode with the weights shipped beside this file."""
    import torch

    net = module(name)
    with np.load(WEIGHTS / f"{name}.npz", allow_pickle=False) as stored:
        state = {key: torch.from_numpy(stored[key].astype(np.float32)) for key in stored.files}
    missing, unexpected = net.load_state_dict(state, strict=False)
    if unexpected or any(not key.endswith("num_batches_tracked") for key in missing):
        raise ValueError(f"{name}.npz does not fit the net: missing {missing}, unexpected {unexpected}; run benchmarks.train_small again")
    return net.eval()


def save_weights(net: Any, path: Path) -> None:
    """Parameters and batch-norm statistics as float16 (half the bytes; the net is evaluated with the stored values)."""
    values = {k: v.detach().cpu().numpy() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{k: v.astype(np.float16) for k, v in values.items()})


def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int, activation: str) -> Any:
    from torch import nn

    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    after = {"relu": [nn.ReLU()], "relu6": [nn.ReLU6()], "none": []}[activation]
    return nn.Sequential(*layers, *after)


def _residual(inputs: int, outputs: int, stride: int) -> Any:
    from torch import nn

    class Residual(nn.Module):
        """x -> 3x3 -> 3x3, + x (by a 1x1 where shapes change), then ReLU."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(_conv(inputs, outputs, 3, stride, 1, "relu"), _conv(outputs, outputs, 3, 1, 1, "none"))
            self.skip = nn.Identity() if stride == 1 and inputs == outputs else _conv(inputs, outputs, 1, stride, 1, "none")

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.body(x) + self.skip(x))

    return Residual()


def _inverted_residual(inputs: int, expansion: int, outputs: int, stride: int, kernel: int) -> Any:
    from torch import nn

    class InvertedResidual(nn.Module):
        """x -> 1x1 expand -> depthwise -> 1x1 project (+ x where shapes allow)."""

        def __init__(self) -> None:
            super().__init__()
            hidden = inputs * expansion
            expand = [_conv(inputs, hidden, 1, 1, 1, "relu6")] if expansion != 1 else []
            depthwise, project = _conv(hidden, hidden, kernel, stride, hidden, "relu6"), _conv(hidden, outputs, 1, 1, 1, "none")
            self.body = nn.Sequential(*expand, depthwise, project)

        def forward(self, x: Any) -> Any:
            y = self.body(x)
            return x + y if stride == 1 and inputs == outputs else y

    return InvertedResidual()
