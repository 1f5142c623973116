"""What a node of a traced network is: told by its module's class or its function, never by a name."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
LINEAR = (*CONVOLUTIONS, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)
DROPOUTS = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
AVERAGES = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AvgPool1d, nn.AvgPool2d)
POOLS = (*AVERAGES, nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
_ADDS = (operator.add, operator.iadd, torch.add)
_POOL_FUNCTIONS = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.avg_pool1d, F.avg_pool2d, F.max_pool1d, F.max_pool2d, torch.mean)
_AVERAGE_FUNCTIONS = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, torch.adaptive_avg_pool1d)
_FLATTENS = ("flatten", "view", "reshape", "squeeze")


class ChannelAffine(nn.Module):
    """y = x * scale + shift, channel by channel: what stands where an activation was. Buffers: training leaves them alone.

    x [N, C, ...] for `dim` 1, [..., C] for `dim` -1. A channel of scale 0 is OFF: it passes no gradient back, so what is zero before it stays zero.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as x."""
        shape = [-1 if axis == self.dim % x.ndim else 1 for axis in range(x.ndim)]
        return x * self.scale.view(shape) + self.shift.view(shape)

    @property
    def on(self) -> Tensor:
        """bool [C]: channels that pass their input on."""
        return self.scale != 0

    @property
    def trivial(self) -> bool:
        """True when it is the identity."""
        return bool((self.scale == 1).all()) and not bool(self.shift.any())


def module_of(module: fx.GraphModule, node: object) -> nn.Module | None:
    """The module that `node` calls, None for any other kind of node."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    layer: nn.Module | None = module
    for name in str(node.target).split("."):  # get_submodule asks each part twice, and a search asks for each layer a hundred times
        layer = None if layer is None else layer._modules[name]
    return layer


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of the tensor that `node` makes, for one sample; None for what is no tensor."""
    shape = getattr(node.meta.get("tensor_meta"), "shape", None)
    return None if shape is None else tuple(int(d) for d in shape)


def called_once(module: fx.GraphModule, target: object) -> bool:
    """True when exactly one node calls this module: weights that two calls share cannot be changed for one of them."""
    called = module.get_submodule(str(target))
    names = {name for name, other in module.named_modules(remove_duplicate=False) if other is called}
    return len([n for n in module.graph.nodes if n.op == "call_module" and n.target in names]) == 1


def is_linear(module: fx.GraphModule, node: object) -> bool:
    """A convolution or a linear layer."""
    return isinstance(module_of(module, node), LINEAR)


def is_norm(module: fx.GraphModule, node: object) -> bool:
    """Batch, layer or group norm."""
    return isinstance(module_of(module, node), NORMS)


def is_dropout(module: fx.GraphModule, node: object) -> bool:
    """What computes nothing in evaluation mode."""
    return isinstance(module_of(module, node), DROPOUTS) or (isinstance(node, fx.Node) and node.target is F.dropout and not node.kwargs.get("training", True))


def is_add(node: object) -> bool:
    """An add of two activations of the same shape: a residual connection."""
    if not isinstance(node, fx.Node) or not (node.target in _ADDS or (node.op == "call_method" and node.target in ("add", "add_"))):
        return False
    operands = [a for a in node.args if isinstance(a, fx.Node) and a.op != "get_attr"]
    return len(node.args) == 2 and len(operands) == 2 and not node.kwargs and shape_of(operands[0]) == shape_of(operands[1]) == shape_of(node)


def is_pad(node: object) -> bool:
    """Zero padding, or cropping by a negative one, of the last axes by the same amount on both sides of each."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is F.pad and pad_amounts(node) is not None


def pad_amounts(node: fx.Node) -> tuple[int, ...] | None:
    """Pixels added on each side, first spatial axis first; None where it is no plain symmetric zero padding."""
    if len(node.args) != 2 or node.kwargs or not isinstance(node.args[1], tuple | list):
        return None
    amounts = [int(a) for a in node.args[1] if isinstance(a, int)]
    pairs = list(zip(amounts[::2], amounts[1::2], strict=False))
    if len(amounts) != len(node.args[1]) or len(amounts) % 2 or any(a != b for a, b in pairs):
        return None
    return tuple(a for a, _ in reversed(pairs))


def is_average(module: fx.GraphModule, node: fx.Node) -> bool:
    """An average over space without padding, which commutes with a 1x1 convolution."""
    layer = module_of(module, node)
    if isinstance(layer, nn.AvgPool1d | nn.AvgPool2d):
        return not any(_numbers(layer.padding)) and not layer.ceil_mode
    if isinstance(layer, AVERAGES) or node.target in _AVERAGE_FUNCTIONS:
        return True
    return is_spatial_mean(node)


def is_spatial_mean(node: fx.Node) -> bool:
    """x.mean((2, 3)) of [N, C, H, W], or of the last axis of [N, C, L]."""
    source = node.args[0] if node.args else None
    if not (node.target is torch.mean or (node.op == "call_method" and node.target == "mean")) or not isinstance(source, fx.Node):
        return False
    shape, dims = shape_of(source), node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if shape is None or not isinstance(dims, int | tuple | list):
        return False
    return sorted(d % len(shape) for d in _numbers(dims)) == list(range(2, len(shape))) and len(shape) > 2


def is_pool(module: fx.GraphModule, node: fx.Node) -> bool:
    """A pooling over space, average or maximum."""
    return isinstance(module_of(module, node), POOLS) or node.target in _POOL_FUNCTIONS or is_spatial_mean(node)


def is_flatten(module: fx.GraphModule, node: fx.Node) -> bool:
    """[N, C, ...] -> [N, C * ...]."""
    source = node.args[0] if node.args else None
    named = isinstance(module_of(module, node), nn.Flatten) or node.target is torch.flatten or (node.op == "call_method" and node.target in _FLATTENS)
    if not named or not isinstance(source, fx.Node):
        return False
    before, after = shape_of(source), shape_of(node)
    return before is not None and after is not None and len(before) > 2 == len(after) and before[0] == after[0]


def operands(node: fx.Node) -> Iterator[fx.Node]:
    """The activations that `node` reads."""
    yield from (n for n in node.all_input_nodes if n.op != "get_attr")


def _numbers(value: object) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(int(v) for v in value)  # type: ignore[attr-defined]
